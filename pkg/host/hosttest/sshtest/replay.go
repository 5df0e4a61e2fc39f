package sshtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Replay is a host that costs next to nothing: whatever it is told to run is
// run once, for all hosts that share the Replay, and answered from memory after
// that. A hundred of them show what kocli itself costs.
type Replay struct {
	// Root holds the files that these hosts have below Below, in place of those of
	// the machine that the test runs on; empty means none of their own.
	Root  string
	Below []string
	// Functions are shell functions that stand for programs, such as systemctl.
	Functions string
	// Dial leads to what is at an address, for tunnels; nil refuses all of them.
	Dial func(address string) (net.Conn, error)

	mu    sync.Mutex
	known map[[32]byte]*replayed
}

// replayed is the answer to one command.
type replayed struct {
	once sync.Once
	out  []byte
	err  []byte
	code uint32
}

// NewReplay returns hosts without answers yet.
func NewReplay() *Replay { return &Replay{known: map[[32]byte]*replayed{}} }

// Start runs one host until the test ends, and returns its port. Everybody may
// log in with the key.
func (r *Replay) Start(t testing.TB, host ssh.Signer, key ssh.PublicKey) int {
	t.Helper()
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) != string(key.Marshal()) {
			return nil, io.EOF
		}
		return nil, nil
	}}
	cfg.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.serve(c, cfg)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

func (r *Replay) serve(c net.Conn, cfg *ssh.ServerConfig) {
	conn, chans, reqs, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	go ssh.DiscardRequests(reqs)
	for nc := range chans {
		if nc.ChannelType() != "session" {
			go r.tunnel(nc)
			continue
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		go r.session(ch, reqs)
	}
}

// tunnel connects a direct-tcpip channel with what Dial leads to.
func (r *Replay) tunnel(nc ssh.NewChannel) {
	var to struct {
		Host string
		Port uint32
		From string
		Nr   uint32
	}
	var conn net.Conn
	err := ssh.Unmarshal(nc.ExtraData(), &to)
	if err == nil && r.Dial != nil {
		conn, err = r.Dial(net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	}
	if conn == nil || err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, "Connection refused")
		return
	}
	defer func() { _ = conn.Close() }()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	go ssh.DiscardRequests(reqs)
	go func() { _, _ = io.Copy(ch, conn); _ = ch.Close() }()
	_, _ = io.Copy(conn, ch)
}

// rooted has the files of these hosts be those below Root.
func (r *Replay) rooted(text string) string {
	for _, dir := range r.Below {
		text = strings.ReplaceAll(text, dir, r.Root+dir)
	}
	return text
}

// unrooted takes Root out of answers.
func (r *Replay) unrooted(said string) string {
	if r.Root == "" {
		return said
	}
	return strings.ReplaceAll(said, r.Root, "")
}

// A batch of questions has a mark of its own. Here all have the same one, so that
// their answers can be remembered.
const sameMark = "SSSSSSSSSSSSSSSSSSSSSSSSSS"

var markLine = regexp.MustCompile(`(?m)^k=([A-Z2-7]{26})$`)

func (r *Replay) session(ch ssh.Channel, reqs <-chan *ssh.Request) {
	for q := range reqs {
		if q.Type != "exec" || len(q.Payload) < 4 {
			_ = q.Reply(false, nil)
			continue
		}
		_ = q.Reply(true, nil)
		line := string(q.Payload[4:])
		go func() {
			defer func() { _ = ch.Close() }()
			stdin := ""
			if strings.Contains(line, "kocli sh -s") { // a script comes on stdin
				_, _ = ch.Stderr().Write([]byte("kocli-ready\n"))
				data, err := io.ReadAll(ch)
				if err != nil {
					return
				}
				stdin = string(data)
			}
			mark := sameMark
			if m := markLine.FindStringSubmatch(stdin); m != nil {
				mark = m[1]
			}
			a := r.answer(line, strings.ReplaceAll(stdin, mark, sameMark))
			_, _ = ch.Write(bytes.ReplaceAll(a.out, []byte(sameMark), []byte(mark)))
			_, _ = ch.Stderr().Write(bytes.ReplaceAll(a.err, []byte(sameMark), []byte(mark)))
			code := make([]byte, 4)
			binary.BigEndian.PutUint32(code, a.code)
			_, _ = ch.SendRequest("exit-status", false, code)
		}()
	}
}

// answer runs a command the first time it is asked for. The clock and the
// host's own name are not part of the question.
func (r *Replay) answer(line, stdin string) *replayed {
	var same []string
	for _, l := range strings.Split(stdin, "\n") {
		if strings.HasPrefix(l, "q date ") || strings.HasPrefix(l, "q getent ") {
			l = "its own" // how many there are is part of it
		}
		same = append(same, l)
	}
	key := sha256.Sum256([]byte(line + "\x00" + strings.Join(same, "\n")))
	r.mu.Lock()
	a := r.known[key]
	if a == nil {
		a = &replayed{}
		r.known[key] = a
	}
	r.mu.Unlock()
	a.once.Do(func() {
		c := exec.Command("sh", "-c", r.rooted(line))
		c.Stdin = strings.NewReader(r.Functions + r.rooted(stdin))
		var out, bad strings.Builder
		c.Stdout, c.Stderr = &out, &bad
		_ = c.Run() // the exit status is the answer
		a.out, a.err, a.code = []byte(r.unrooted(out.String())), []byte(r.unrooted(strings.ReplaceAll(bad.String(), "kocli-ready\n", ""))), uint32(max(0, c.ProcessState.ExitCode()))
	})
	return a
}
