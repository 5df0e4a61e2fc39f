package dnf

import (
	"fmt"
	"strings"
)

// condition is a required capability, or several with an operator between: what
// rpm calls a boolean dependency.
type condition struct {
	op   string // "" for a capability; and, or, with, without, if, unless
	leaf Capability
	args []condition // of if and unless: what is needed, when, and what else
}

// parse reads what a package requires.
func parse(c Capability) (condition, error) {
	if !strings.HasPrefix(c.Name, "(") {
		return condition{leaf: c}, nil
	}
	p := parser{words(c.Name)}
	out, err := p.group()
	if err == nil && len(p.words) > 0 {
		err = fmt.Errorf("%q follows", p.words[0])
	}
	if err != nil {
		return condition{}, fmt.Errorf("condition %q: %w", c.Name, err)
	}
	return out, nil
}

// words splits a condition. A bracket within a name, as in libc.so.6()(64bit),
// belongs to the name.
func words(s string) []string {
	var out []string
	for field := range strings.FieldsSeq(s) {
		for strings.HasPrefix(field, "(") {
			out, field = append(out, "("), field[1:]
		}
		closing := 0
		for strings.HasSuffix(field, ")") && strings.Count(field, ")") > strings.Count(field, "(") {
			closing++
			field = field[:len(field)-1]
		}
		if field != "" {
			out = append(out, field)
		}
		for range closing {
			out = append(out, ")")
		}
	}
	return out
}

type parser struct{ words []string }

func (p *parser) peek() string {
	if len(p.words) == 0 {
		return ""
	}
	return p.words[0]
}

func (p *parser) take() string {
	w := p.peek()
	if w != "" {
		p.words = p.words[1:]
	}
	return w
}

// group reads "( term op term ... )".
func (p *parser) group() (condition, error) {
	if p.take() != "(" {
		return condition{}, fmt.Errorf("a bracket is missing")
	}
	first, err := p.term()
	if err != nil {
		return condition{}, err
	}
	out := condition{args: []condition{first}}
	for p.peek() != ")" {
		op := p.take()
		switch {
		case op == "else" && (out.op == "if" || out.op == "unless") && len(out.args) == 2:
		case out.op == "" || out.op == op:
			out.op = op
		default:
			return condition{}, fmt.Errorf("%q after %q", op, out.op)
		}
		next, err := p.term()
		if err != nil {
			return condition{}, err
		}
		out.args = append(out.args, next)
	}
	p.take()
	switch out.op {
	case "":
		return first, nil
	case "and", "or", "with", "without", "if", "unless":
		return out, nil
	}
	return condition{}, fmt.Errorf("operator %q is not known", out.op)
}

// operators of a bound, as conditions write them and as package lists do.
func operators() map[string]string {
	return map[string]string{"<": "LT", "<=": "LE", "=": "EQ", ">=": "GE", ">": "GT"}
}

// term reads a group, or a capability with or without a bound.
func (p *parser) term() (condition, error) {
	switch p.peek() {
	case "(":
		return p.group()
	case "", ")":
		return condition{}, fmt.Errorf("a name is missing")
	}
	c := Capability{Name: p.take()}
	if op, ok := operators()[p.peek()]; ok {
		p.take()
		c.Op, c.EVR = op, parseEVR(p.take())
	}
	return condition{leaf: c}, nil
}

// parseEVR reads [epoch:]version[-release].
func parseEVR(s string) EVR {
	var v EVR
	if e, rest, ok := strings.Cut(s, ":"); ok {
		v.Epoch, s = e, rest
	}
	v.Version, v.Release, _ = strings.Cut(s, "-")
	return v
}
