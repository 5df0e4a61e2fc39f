package config

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/kocli/kocli/pkg/api/v1alpha1"
)

// hostList is spec.hosts in the text of a cluster.yaml. Offsets are in bytes.
type hostList struct {
	text  []byte
	lines []int // where lines start; the last one is the end of the text
	eol   string
	seq   *yaml.Node
	flow  bool
	open  int // after the bracket of a flow list
	items []hostItem
}

// hostItem is where a host stands.
type hostItem struct {
	node       *yaml.Node
	start, end int // the host itself; of a block its dash's line up to the end of its last one
	flow       bool
	dash       int // the column of the dash of a block item
}

func newHostList(text []byte, root *yaml.Node) (*hostList, error) {
	spec := child(root, "spec")
	if spec == nil || spec.Kind != yaml.MappingNode {
		return nil, errors.New("there is no spec")
	}
	seq := child(spec, "hosts")
	if seq == nil || seq.Kind != yaml.SequenceNode {
		return nil, errors.New("there is no list")
	}
	l := &hostList{text: text, lines: lineStarts(text), eol: "\n", seq: seq, flow: seq.Style&yaml.FlowStyle != 0}
	if i := bytes.IndexByte(text, '\n'); i > 0 && text[i-1] == '\r' {
		l.eol = "\r\n"
	}
	if l.flow {
		at := bytes.IndexByte(text[l.offset(seq):], '[')
		if at < 0 {
			return nil, errors.New("its bracket was not found")
		}
		l.open = l.offset(seq) + at + 1
	}
	for _, n := range seq.Content {
		it, err := l.item(n)
		if err != nil {
			return nil, err
		}
		l.items = append(l.items, it)
	}
	if !l.flow {
		l.blockEnds()
	}
	return l, nil
}

// lineStarts splits at what the YAML parser takes for a line break.
func lineStarts(text []byte) []int {
	starts := []int{0}
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		i += n
		if r == '\r' && i < len(text) && text[i] == '\n' {
			continue
		}
		if r == '\n' || r == '\r' || r == 0x85 || r == 0x2028 || r == 0x2029 {
			starts = append(starts, i)
		}
	}
	if starts[len(starts)-1] != len(text) {
		starts = append(starts, len(text))
	}
	return starts
}

// offset is where a node starts: its column counts characters.
func (l *hostList) offset(n *yaml.Node) int {
	if n.Line-1 >= len(l.lines) {
		return len(l.text)
	}
	at := l.lines[n.Line-1]
	for range n.Column - 1 {
		if at >= len(l.text) {
			break
		}
		_, size := utf8.DecodeRune(l.text[at:])
		at += size
	}
	return at
}

// line is a line's text, without its break, and its number of an offset.
func (l *hostList) line(i int) string {
	return strings.TrimRight(string(l.text[l.lines[i]:l.lines[i+1]]), "\r\n")
}

func (l *hostList) lineOf(offset int) int {
	i, found := slices.BinarySearch(l.lines, offset)
	if !found {
		i--
	}
	return min(i, len(l.lines)-2)
}

// indent is how far a line is indented, and whether it says anything.
func indent(line string) (n int, blank, comment bool) {
	rest := strings.TrimLeft(line, " ")
	blank = strings.TrimSpace(rest) == ""
	return len(line) - len(rest), blank, strings.HasPrefix(rest, "#")
}

func (l *hostList) item(n *yaml.Node) (hostItem, error) {
	it := hostItem{node: n, start: l.offset(n), flow: l.flow || n.Style&yaml.FlowStyle != 0}
	if l.flow || it.flow {
		it.end = flowEnd(l.text, it.start)
	}
	if l.flow {
		return it, nil
	}
	for i := l.lineOf(it.start); i >= 0; i-- {
		before := l.line(i)
		if i == l.lineOf(it.start) {
			before = string(l.text[l.lines[i]:it.start])
		}
		rest := strings.TrimLeft(before, " ")
		switch {
		case strings.HasPrefix(rest, "-") && (len(rest) == 1 || strings.ContainsAny(rest[1:2], " \t")):
			it.dash = len(before) - len(rest)
			it.start = l.lines[i]
			return it, nil
		case strings.TrimSpace(rest) == "" || strings.HasPrefix(rest, "#"):
			continue
		}
		break
	}
	return it, fmt.Errorf("the dash of the host at line %d was not found", n.Line)
}

// blockEnds finds where the hosts of a block list end: with their last line that
// is indented deeper than the dash.
func (l *hostList) blockEnds() {
	for k := range l.items {
		it := &l.items[k]
		first := l.lineOf(it.start)
		last := first
		for i := first + 1; i+1 < len(l.lines); i++ {
			if k+1 < len(l.items) && l.lines[i] >= l.items[k+1].start {
				break
			}
			n, blank, comment := indent(l.line(i))
			if n > it.dash && !blank {
				last = i
			}
			if n <= it.dash && !blank && !comment {
				break
			}
		}
		if !it.flow {
			it.end = l.lines[last+1]
		} else {
			it.end = max(it.end, l.lines[first]) // of the braces; the lines are found by removal
		}
	}
}

// lastLine is the line in which a host ends.
func (l *hostList) lastLine(it hostItem) int {
	return l.lineOf(max(it.start, it.end-1))
}

// above is the first of the comment lines that stand directly above a line and
// are indented like it.
func (l *hostList) above(line int) int {
	want, _, _ := indent(l.line(line))
	for line > 0 {
		n, _, comment := indent(l.line(line - 1))
		if !comment || n != want {
			break
		}
		line--
	}
	return line
}

// splice replaces what is between two offsets.
func (l *hostList) splice(from, to int, with string) []byte {
	return slices.Concat(l.text[:from], []byte(with), l.text[to:])
}

// block writes a host after a dash.
func (l *hostList) block(h v1alpha1.Host, like hostItem) (string, error) {
	lines, err := hostText(h, like.flow)
	if err != nil {
		return "", err
	}
	pad := strings.Repeat(" ", like.dash)
	for i := range lines {
		if i == 0 {
			lines[i] = pad + "- " + lines[i]
		} else if lines[i] != "" {
			lines[i] = pad + "  " + lines[i]
		}
	}
	return strings.Join(lines, l.eol), nil
}

func (l *hostList) add(h v1alpha1.Host) ([]byte, error) {
	if l.flow {
		return l.addToFlow(h)
	}
	last := l.items[len(l.items)-1]
	text, err := l.block(h, last)
	if err != nil {
		return nil, err
	}
	at := l.lines[l.lastLine(last)+1]
	if at > 0 && !bytes.HasSuffix(l.text[:at], []byte("\n")) { // the end of a text without a last line break
		return l.splice(at, at, l.eol+text), nil
	}
	return l.splice(at, at, text+l.eol), nil
}

func (l *hostList) addToFlow(h v1alpha1.Host) ([]byte, error) {
	lines, err := hostText(h, true)
	if err != nil {
		return nil, err
	}
	host := lines[0]
	if len(l.items) == 0 {
		return l.splice(l.open, l.open, host), nil
	}
	last := l.items[len(l.items)-1]
	comma, after := l.afterItem(last.end)
	lineStart := l.lines[l.lineOf(last.start)]
	pad := string(l.text[lineStart:last.start])
	alone := strings.TrimSpace(pad) == ""
	switch {
	case !comma && !(alone && l.breakAt(after)):
		return l.splice(last.end, last.end, ", "+host), nil
	case !comma: // a line of its own, after what is said of the last one
		return slices.Concat(l.text[:last.end], []byte(","), l.text[last.end:after], []byte(l.eol+pad+host), l.text[after:]), nil
	case alone && l.breakAt(after):
		return l.splice(after, after, l.eol+pad+host+","), nil
	}
	at := last.end + bytes.IndexByte(l.text[last.end:], ',') + 1
	return l.splice(at, at, " "+host+","), nil
}

// afterItem looks behind an item of a flow list: whether there is a comma, and
// where what belongs to its line ends: blanks, and a comment.
func (l *hostList) afterItem(at int) (comma bool, end int) {
	i := at
	for i < len(l.text) && strings.IndexByte(" \t,", l.text[i]) >= 0 {
		if l.text[i] == ',' {
			if comma {
				break
			}
			comma = true
		}
		i++
	}
	if i < len(l.text) && l.text[i] == '#' {
		for i < len(l.text) && !l.breakAt(i) {
			i++
		}
	}
	return comma, i
}

// breakAt reports whether a line ends at an offset.
func (l *hostList) breakAt(at int) bool {
	return at >= len(l.text) || l.text[at] == '\n' || l.text[at] == '\r'
}

func (l *hostList) remove(i int) []byte {
	it := l.items[i]
	if !l.flow {
		first, last := l.above(l.lineOf(it.start)), l.lastLine(it)
		return l.splice(l.lines[first], l.lines[last+1], "")
	}
	first := l.lineOf(it.start)
	comma, after := l.afterItem(it.end)
	alone := strings.TrimSpace(string(l.text[l.lines[first]:it.start])) == ""
	switch {
	case alone && l.breakAt(after): // lines of its own
		return l.splice(l.lines[l.above(first)], l.lines[min(l.lineOf(after)+1, len(l.lines)-1)], "")
	case i+1 < len(l.items) && l.breakAt(after):
		return l.splice(it.start, after, "")
	case i+1 < len(l.items):
		return l.splice(it.start, l.items[i+1].start, "")
	case alone: // the bracket follows
		to := it.end
		if comma {
			to = after
		}
		return l.splice(it.start, to, "")
	}
	return l.splice(l.items[i-1].end, it.end, "")
}

func (l *hostList) replace(i int, h v1alpha1.Host) ([]byte, error) {
	it := l.items[i]
	if it.flow {
		lines, err := hostText(h, true)
		if err != nil {
			return nil, err
		}
		return l.splice(l.offset(it.node), it.end, lines[0]), nil
	}
	text, err := l.block(h, it)
	if err != nil {
		return nil, err
	}
	if bytes.HasSuffix(l.text[:it.end], []byte("\n")) {
		text += l.eol
	}
	return l.splice(it.start, it.end, text), nil
}

// flowEnd is where a value in flow style ends that starts at an offset: before
// the comma or the bracket that follows it, or the blanks before them.
func flowEnd(text []byte, at int) int {
	depth, end := 0, at
	for i := at; i < len(text); {
		switch c := text[i]; {
		case c == '#' && (i == 0 || strings.IndexByte(" \t\r\n,[{", text[i-1]) >= 0):
			for i < len(text) && text[i] != '\n' && text[i] != '\r' {
				i++
			}
			continue
		case c == '"' || c == '\'':
			i = quoted(text, i)
			end = i
			continue
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			if depth--; depth < 0 {
				return end
			}
			if depth == 0 {
				return i + 1
			}
		case c == ',' && depth == 0:
			return end
		case strings.IndexByte(" \t\r\n,:", c) >= 0:
			i++
			continue
		default:
			i = plain(text, i)
			end = i
			continue
		}
		i++
		end = i
	}
	return end
}

// quoted is where a quoted scalar ends.
func quoted(text []byte, at int) int {
	q := text[at]
	for i := at + 1; i < len(text); i++ {
		switch {
		case q == '"' && text[i] == '\\':
			i++
		case text[i] == q && q == '\'' && i+1 < len(text) && text[i+1] == q:
			i++
		case text[i] == q:
			return i + 1
		}
	}
	return len(text)
}

// plain is where a scalar without quotes, an anchor, an alias or a tag ends.
func plain(text []byte, at int) int {
	for i := at; i < len(text); i++ {
		c := text[i]
		if strings.IndexByte(",[]{}\r\n", c) >= 0 {
			return i
		}
		if c == ' ' || c == '\t' { // it goes on, but for a comment, or what follows an anchor
			next := bytes.TrimLeft(text[i:], " \t")
			if strings.IndexByte("&*!", text[at]) >= 0 || len(next) > 0 && next[0] == '#' {
				return i
			}
		}
		if c == ':' && (i+1 == len(text) || strings.IndexByte(" \t\r\n,[]{}", text[i+1]) >= 0) {
			return i
		}
	}
	return len(text)
}
