// SPDX-License-Identifier: Apache-2.0

package wire_test

// docs/protocol.md is what others write clients from. It must show the golden files as they are, know every error code,
// option, size and field, and its client must work.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/internal/wire"
)

func document(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatalf("cannot read the document: %v", err)
	}
	return string(text)
}

// section is the document from a heading to the next one of that rank.
func section(t *testing.T, heading string) string {
	t.Helper()
	_, after, found := strings.Cut(document(t), "\n"+heading+"\n")
	if !found {
		t.Fatalf("the document has no heading %q", heading)
	}
	rank, _, _ := strings.Cut(heading, " ")
	body, _, _ := strings.Cut(after, "\n"+rank+" ")
	return body
}

// firstCells lists the code spans in the first column of the tables in markdown.
func firstCells(markdown string) []string {
	row := regexp.MustCompile("(?m)^\\| (`[^|]*) \\|")
	span := regexp.MustCompile("`([^`]+)`")
	var cells []string
	for _, found := range row.FindAllStringSubmatch(markdown, -1) {
		for _, name := range span.FindAllStringSubmatch(found[1], -1) {
			cells = append(cells, name[1])
		}
	}
	slices.Sort(cells)
	return cells
}

// sameWords compares two lists without regard to order, and says what is missing where.
func sameWords(t *testing.T, what string, documented, real []string) {
	t.Helper()
	for _, word := range real {
		if !slices.Contains(documented, word) {
			t.Errorf("docs/protocol.md lacks the %s %s", what, word)
		}
	}
	for i, word := range documented {
		if !slices.Contains(real, word) {
			t.Errorf("docs/protocol.md has the %s %s, which there is not", what, word)
		}
		if i > 0 && documented[i-1] == word {
			t.Errorf("docs/protocol.md has the %s %s twice", what, word)
		}
	}
	if len(real) == 0 {
		t.Errorf("no %s found to compare with", what)
	}
}

func TestDocumentShowsTheGoldenFiles(t *testing.T) {
	block := regexp.MustCompile("(?ms)^`internal/wire/testdata/([^`]+)`\n\n```\n(.*?)^```\n")
	shown := make([]string, 0)
	for _, found := range block.FindAllStringSubmatch(document(t), -1) {
		name := found[1]
		shown = append(shown, name)
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Errorf("the document shows a file that is not there: %v", err)
		} else if string(text) != found[2] {
			t.Errorf("the document shows another %s:\n%s", name, found[2])
		}
	}
	if mentioned := strings.Count(document(t), "`internal/wire/testdata/"); mentioned != len(shown) {
		t.Errorf("the document names %d golden files and shows %d", mentioned, len(shown))
	}
	slices.Sort(shown)
	sameWords(t, "golden file", shown, goldenNames(t))
}

func TestDocumentHasEveryErrorCode(t *testing.T) {
	sameWords(t, "error code", firstCells(section(t, "## Error codes")), constants(t, "errors.go", "Code"))
}

func TestDocumentHasEveryOperation(t *testing.T) {
	operations, _, _ := strings.Cut(section(t, "## control"), "`sink` is a label")
	sameWords(t, "operation", firstCells(operations), constants(t, "control.go", "Op"))
}

// constants lists the values of the constants in a file whose names begin with prefix.
func constants(t *testing.T, file, prefix string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatalf("cannot parse the constants: %v", err)
	}
	var values []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, prefix) {
			return true
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatalf("%s is no string", spec.Names[0])
		}
		values = append(values, value)
		return true
	})
	return values
}

func TestDocumentHasEveryOption(t *testing.T) {
	options := reflect.TypeFor[wire.Options]()
	var keys []string
	for field := range options.Fields() {
		if field.Name != "PatienceSet" { // says only whether Patience is there
			keys = append(keys, cmp.Or(map[string]string{"NoEmpty": "empty", "MaxSize": "max-size"}[field.Name], strings.ToLower(field.Name)))
		}
	}
	documented, _, _ := strings.Cut(section(t, "### Options"), "A duration is")
	sameWords(t, "option", firstCells(documented), keys)
	for _, key := range keys {
		var o wire.Options
		if refusal, _ := errors.AsType[*wire.Error](o.Set(key, "?")); refusal == nil || refusal.Code != wire.CodeBadOption {
			t.Errorf("the option %s is not known: %v", key, refusal)
		}
	}
}

// TestDocumentHasEveryField wants each field of the answer's JSON: of status and sink in the tables, of others in the
// text of the section.
func TestDocumentHasEveryField(t *testing.T) {
	control := section(t, "## control")
	_, tables, _ := strings.Cut(control, "| field of `status`")
	status, sink, found := strings.Cut(tables, "| field of a sink")
	if !found {
		t.Fatal("the document lacks the tables of fields")
	}
	sameWords(t, "field of status", firstCells(status), fields(reflect.TypeFor[wire.Status]()))
	sameWords(t, "field of a sink", firstCells(sink), fields(reflect.TypeFor[wire.Sink]()))
	for _, other := range []reflect.Type{reflect.TypeFor[wire.Answer](), reflect.TypeFor[wire.Request](),
		reflect.TypeFor[wire.SinkCounts](), reflect.TypeFor[wire.Sources](), reflect.TypeFor[wire.SourceSocket](), reflect.TypeFor[wire.Error]()} {
		for _, name := range fields(other) {
			if !strings.Contains(control, "`"+name+"`") && !strings.Contains(control, `"`+name+`"`) {
				t.Errorf("docs/protocol.md lacks the field %s of %s", name, other)
			}
		}
	}
}

// fields lists the JSON names of a struct's fields.
func fields(of reflect.Type) []string {
	var names []string
	for field := range of.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

func TestDocumentHasTheSizes(t *testing.T) {
	sizes := section(t, "## Sizes")
	for what, size := range map[string]int{
		"registration":     wire.MaxRegistration,
		"hello":            wire.MaxHello,
		"answer to either": wire.MaxReply,
		"packet of several records, header included": wire.MaxPacket,
		"control request": wire.MaxRequest,
	} {
		if row := fmt.Sprintf("\n| %s | %d |\n", what, size); !strings.Contains(sizes, row) {
			t.Errorf("docs/protocol.md lacks the row %s", strings.TrimSpace(row))
		}
	}
	if !strings.Contains(section(t, "## publish and subscribe"), "the line `"+wire.Protocol+"`") {
		t.Errorf("docs/protocol.md does not begin a hello with %s", wire.Protocol)
	}
}

// TestDocumentClientWorks runs the Python client of the document against a broker that hangs up before ok, refuses, and
// then talks in golden files.
func TestDocumentClientWorks(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 to run the client with")
	}
	code := regexp.MustCompile("(?s)```python\n(.*?)```").FindStringSubmatch(section(t, "## A client"))
	if code == nil {
		t.Fatal("the document has no Python client")
	}
	dir, err := os.MkdirTemp("", "mm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "socket")
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	deadline := time.Now().Add(3 * time.Minute)
	listener.SetDeadline(deadline)
	ctx, cancel := context.WithDeadline(t.Context(), deadline)
	defer cancel()

	run := func(script string) (wait func() string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, python, "-c", code[1]+script, path)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatalf("cannot start python3: %v", err)
		}
		return func() string {
			t.Helper()
			if err := cmd.Wait(); err != nil {
				t.Fatalf("the client failed: %v\n%s", err, out.String())
			}
			return out.String()
		}
	}
	// accept takes the next client and its hello, unless the hello is to be left unread.
	accept := func(hello string) *net.UnixConn {
		t.Helper()
		conn, err := listener.AcceptUnix()
		if err != nil {
			t.Fatalf("no client came: %v", err)
		}
		conn.SetDeadline(deadline)
		if hello != "" && read(t, conn) != hello {
			t.Errorf("the hello is not %s", hello)
		}
		return conn
	}
	write := func(conn *net.UnixConn, b []byte) {
		t.Helper()
		if _, err := conn.Write(b); err != nil {
			t.Errorf("cannot write to the client: %v", err)
		}
	}

	large := strings.Repeat("L", 100_000)
	largePacket := make([]byte, wire.SinkHeader)
	wire.PutSinkHeader(largePacket, 1005, 4)
	wait := run(`
import sys
for number, lost, message in receive(connect(sys.argv[1], "label=db\npatience=forever\n")[0]):
    print(number, lost, len(message), message[:5].decode())
`)
	accept("").Close() // the client has sent a hello that nobody read, and gets ECONNRESET
	began := time.Now()
	conn := accept(string(golden(t, "hello-subscribe.txt")))
	if waited := time.Since(began); waited < 900*time.Millisecond {
		t.Errorf("the client came back after %v", waited)
	}
	write(conn, golden(t, "reply-ok.txt"))
	write(conn, golden(t, "packet-sink.hex"))
	write(conn, wire.AppendRecord(largePacket, []byte(large)))
	conn.Close()
	if got, want := wait(), "1000 2 5 hello\n1001 2 0 \n1002 2 4 pong\n1005 4 100000 LLLLL\n"; got != want {
		t.Errorf("the sink printed %q, want %q", got, want)
	}

	wait = run(`
import sys
for number, lost, message, origin in receive_origins(connect(sys.argv[1], "label=who\nmeta=yes\n")[0]):
    print(number, lost, message, *origin)
`)
	conn = accept("msgmux/1\nlabel=who\nmeta=yes\n")
	write(conn, golden(t, "reply-ok.txt"))
	write(conn, golden(t, "packet-meta.hex"))
	conn.Close()
	if got, want := wait(), "1000 2 b'hello' 1779551940123456789 1234 1000 100 1 1\n1001 2 b'' 1779551940123456789 1234 1000 100 1 1\n1002 2 b'pong' 1779551940123456789 0 0 0 1 0\n"; got != want {
		t.Errorf("the sink that asks for origins printed %q, want %q", got, want)
	}

	wait = run(`
import sys
connect(sys.argv[1], "label=web\n")[0].send(packet([b"hello", b"", b"pong"]))
`)
	conn = accept(string(golden(t, "hello-publish.txt")))
	write(conn, golden(t, "reply-ok.txt"))
	if got := read(t, conn); got != string(golden(t, "packet-source.hex")) {
		t.Errorf("the source sent % x", got)
	}
	conn.Close()
	wait()

	wait = run(`
import sys
sink, ok = connect(sys.argv[1], "label=db\nack=yes\nkeep=1h0m0s\nfrom=9f3c0a1d:1003\n")
print(ok["epoch"], ok["next"])
try:
    for number, lost, message in receive(sink, ack=True): print(number)
except RuntimeError as e: print("ended:", e)
`)
	conn = accept(string(golden(t, "hello-kept.txt")))
	write(conn, golden(t, "reply-hello.txt"))
	write(conn, golden(t, "packet-sink.hex"))
	if got := read(t, conn); got != string(golden(t, "ack.hex")) {
		t.Errorf("the kept sink acknowledged % x", got)
	}
	write(conn, golden(t, "reply-error.txt"))
	conn.Close()
	if got, want := wait(), "9f3c0a1d 1000\n1000\n1001\n1002\nended: "+string(golden(t, "reply-error.txt")); got != want {
		t.Errorf("the kept sink printed %q, want %q", got, want)
	}

	wait = run(`
import sys
source, ok = connect(sys.argv[1], "label=tail\nkeep=1h0m0s\nmark=yes\n")
source.send(packet([b"hello"], int(ok["mark"]) + 10))
`)
	busy := accept(string(golden(t, "hello-marked.txt")))
	write(busy, []byte("error busy what it has sent before is still being taken in\n"))
	busy.Close()
	conn = accept(string(golden(t, "hello-marked.txt")))
	write(conn, golden(t, "reply-marked.txt"))
	if got := read(t, conn); got != string(golden(t, "packet-marked.hex")) {
		t.Errorf("the marked source sent % x", got)
	}
	conn.Close()
	wait()

	wait = run(`
import sys
try: connect(sys.argv[1])
except RuntimeError as e: print("refused:", e)
`)
	conn = accept("") // the refusal is there although the hello was not read
	write(conn, golden(t, "reply-error.txt"))
	conn.Close()
	if got, want := wait(), "refused: "+string(golden(t, "reply-error.txt")); got != want {
		t.Errorf("the refused client printed %q, want %q", got, want)
	}
}

// read is the next packet from conn.
func read(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	b := make([]byte, wire.MaxPacket)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatalf("cannot read from the client: %v", err)
	}
	return string(b[:n])
}

// TestDocumentProvesAHeldSocket runs the lines that prove that a socket is held, as a whole program would have them: the buffer of that
// socket is what the answer asks for.
func TestDocumentProvesAHeldSocket(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 to run them with")
	}
	var lines []string
	for line := range strings.Lines(section(t, "### A socket that somebody else has made")) {
		if code, ok := strings.CutPrefix(line, "    "); ok && (len(lines) > 0 || strings.HasPrefix(code, "second.")) {
			lines = append(lines, code)
		} else if len(lines) > 0 {
			break
		}
	}
	dir, err := os.MkdirTemp("", "mm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	register, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/register", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer register.Close()
	register.SetDeadline(time.Now().Add(time.Minute))
	script := strings.NewReplacer("/run/msgmux", dir, "/run/db/in", dir+"/in").Replace(strings.Join(lines, ""))
	program := exec.Command(python, "-c", "import socket, sys\n"+
		"first, second = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))\n"+
		"first.bind(sys.argv[1])\nsecond.bind('')\n"+script+
		"print(first.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))\n", dir+"/in")
	var out strings.Builder
	program.Stdout, program.Stderr = &out, &out
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { program.Process.Kill(); program.Wait() }()
	request := make([]byte, 4096)
	n, from, err := register.ReadFromUnix(request)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if r, err := wire.ParseRegistration(request[:n]); err != nil || r.Address.String() != dir+"/in" || !r.Prove || !r.Reply {
		t.Errorf("the page's lines ask %q: %+v, %v", request[:n], r, err)
	}
	answer := wire.Reply{Err: wire.Refuse(wire.CodeProve, "%d: set it", 23456)}.Append(nil)
	if _, err := register.WriteToUnix(answer, from); err != nil {
		t.Fatal(err)
	}
	if err := program.Wait(); err != nil || out.String() != "46912\n" { // the kernel doubles it
		t.Errorf("%v, it prints %q", err, out.String())
	}
}
