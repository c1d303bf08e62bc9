// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	// maxScrapers bounds the connections to the metrics socket that are open at a time, reservedScrapers of them for root
	// and the broker's user. Each may hold a whole text, which has 3 MiB with 4,000 sinks, for as long as a client may take.
	maxScrapers      = 16
	reservedScrapers = 4
	// maxHead bounds what is read of one request, in bytes.
	maxHead = 8 << 10
	// lingerFor is how long a client has to close after its answer. What it sent and nobody read would make the kernel
	// reset the connection, and the client lose the answer.
	lingerFor = time.Second
)

// The two content types, which differ in how they call a counter in its comments. What asks for nothing gets the older,
// which everything reads.
const (
	typeOpenMetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8"
	typeText        = "text/plain; version=0.0.4; charset=utf-8"
)

// Metrics answers the clients of a metrics socket: a GET of /metrics by HTTP, or, without any request, a client that
// closes its sending side.
type Metrics struct {
	listener net.Listener
	write    func(open bool) []byte // the text of this moment; open: as OpenMetrics
}

// ListenMetrics makes a listener of the listening stream socket fd, unix or TCP, and owns fd from then on.
func ListenMetrics(fd int) (net.Listener, error) {
	l, err := listen(fd, "metrics")
	if err != nil {
		return nil, err
	}
	if n := l.Addr().Network(); n != "unix" && n != "tcp" {
		l.Close()
		return nil, fmt.Errorf("cannot listen on the metrics socket: %s is no stream", n)
	}
	return l, nil
}

// ListenMetricsAt binds a metrics socket where none was handed over: a path, or HOST:PORT.
func ListenMetricsAt(address string) (net.Listener, error) {
	if !strings.HasPrefix(address, "/") {
		return net.Listen("tcp", address)
	}
	l, err := net.Listen("unix", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		// What a dead program left behind may be replaced, and nothing else.
		conn, dead := net.Dial("unix", address)
		if dead == nil {
			conn.Close()
		}
		if errors.Is(dead, syscall.ECONNREFUSED) && isSocket(address) {
			os.Remove(address)
			l, err = net.Listen("unix", address)
		}
	}
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(address, 0o660)
}

func isSocket(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}

// NewMetrics makes a server of a listener of streams, which Serve closes.
func NewMetrics(l net.Listener, c Commands) *Metrics {
	return &Metrics{l, func(open bool) []byte {
		st, sinks := c.List()
		return appendMetrics(nil, &st, sinks, open)
	}}
}

// Metric is a metric of one value, of a program beside the broker that is seen in the same way.
type Metric struct {
	Name    string // without _total
	Unit    string // the name ends with it; "" for a mere number
	Help    string
	Counter bool
	Value   float64
	Labels  []string // names and values in turn
}

// NewMetricsOf is NewMetrics for such a program; of is asked for each answer, by one client at a time.
func NewMetricsOf(l net.Listener, of func() []Metric) *Metrics {
	return &Metrics{l, func(open bool) []byte {
		w := exposition{open: open}
		for _, m := range of() {
			w.begin(m.Name, m.Unit, m.Counter, m.Help)
			w.sample(m.Value, m.Labels...)
		}
		return append(w.text, "# EOF\n"...)
	}}
}

// Serve answers clients until ctx ends. It waits for those that it is answering.
func (m *Metrics) Serve(ctx context.Context) error {
	c := crowd{room: maxScrapers, reserved: reservedScrapers, serve: m.answer}
	c.run(ctx, m.listener)
	return nil
}

// answer serves one client. One answer for each connection: a scrape every few seconds needs no more, and nothing is
// held for who does not come back.
func (m *Metrics) answer(g *guest) {
	head, err := readHead(g)
	if !g.ask() {
		return
	}
	g.SetDeadline(time.Now().Add(clientPatience))
	switch {
	case errors.Is(err, io.EOF) && len(head) == 0:
		g.Write(m.text(g, false))
		return
	case errors.Is(err, errLongHead):
		g.Write(plain(431, "Request Header Fields Too Large", ""))
	case errors.Is(err, os.ErrDeadlineExceeded):
		g.Write(plain(408, "Request Timeout", ""))
	case err != nil:
		return
	default:
		g.Write(m.respond(g, head))
	}
	linger(g.Conn)
}

var errLongHead = errors.New("request head too long")

// readHead reads a request up to the empty line that ends its head.
func readHead(r io.Reader) ([]byte, error) {
	buf := make([]byte, maxHead)
	for head := buf[:0]; ; {
		if len(head) == len(buf) {
			return nil, errLongHead
		}
		n, err := r.Read(buf[len(head):])
		head = buf[:len(head)+n]
		if bytes.Contains(head, []byte("\r\n\r\n")) || bytes.Contains(head, []byte("\n\n")) {
			return head, nil
		}
		if err != nil {
			return head, err
		}
	}
}

// respond is the response to a request.
func (m *Metrics) respond(g *guest, head []byte) []byte {
	lines := strings.Split(strings.ReplaceAll(string(head), "\r\n", "\n"), "\n")
	words := strings.Split(lines[0], " ")
	if len(words) != 3 || !strings.HasPrefix(words[2], "HTTP/1.") {
		return plain(400, "Bad Request", "")
	}
	method, target := words[0], words[1]
	if method != "GET" && method != "HEAD" {
		return plain(405, "Method Not Allowed", "Allow: GET, HEAD\r\n")
	}
	// A proxy's form, http://host/path, leads here too.
	if _, after, ok := strings.Cut(target, "://"); ok {
		_, target, _ = strings.Cut(after, "/")
		target = "/" + target
	}
	target, _, _ = strings.Cut(target, "?")
	if target != "/metrics" && target != "/" {
		return plain(404, "Not Found", "")
	}
	open := false
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "accept") && strings.Contains(strings.ToLower(value), "application/openmetrics-text") {
			open = true
		}
	}
	kind := typeText
	if open {
		kind = typeOpenMetrics
	}
	text := m.text(g, open)
	out := fmt.Appendf(make([]byte, 0, len(text)+256), "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", kind, len(text))
	if method == "HEAD" {
		return out
	}
	return append(out, text...)
}

// plain is a response that says why there are no metrics.
func plain(status int, reason, header string) []byte {
	text := fmt.Sprintf("%s; the metrics are at /metrics\n", reason)
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n%s",
		status, reason, len(text), header, text)
}

// linger waits until the client has closed, and reads what it still sends.
func linger(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	conn.SetReadDeadline(time.Now().Add(lingerFor))
	io.CopyN(io.Discard, conn, 1<<20)
}

// text is the metrics of this moment, nothing for a guest whose place is gone.
func (m *Metrics) text(g *guest, open bool) []byte {
	if !g.crowd.turns.take(g) {
		return nil
	}
	defer g.crowd.turns.done()
	return m.write(open)
}
