// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/broker/control"
)

const catalogFile = "../../packaging/catalog/msgmux.catalog"

// explanation is an entry of the catalog: its headers and its text.
type explanation struct {
	headers map[string]string
	text    string
}

// catalog reads the catalog, entries by their id.
func catalog(t *testing.T) map[string]explanation {
	t.Helper()
	text, err := os.ReadFile(catalogFile)
	if err != nil {
		t.Fatal(err)
	}
	entries := make(map[string]explanation)
	for part := range strings.SplitSeq("\n"+string(text), "\n-- ") {
		id, rest, found := strings.Cut(part, "\n")
		if !found || strings.HasPrefix(strings.TrimSpace(part), "#") {
			continue
		}
		if _, twice := entries[id]; twice {
			t.Errorf("%s is there twice", id)
		}
		e := explanation{headers: make(map[string]string)}
		head, body, _ := strings.Cut(rest, "\n\n")
		for line := range strings.Lines(head) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			e.headers[name] = value
		}
		e.text = strings.TrimSpace(body)
		entries[id] = e
	}
	return entries
}

// inSources calls f for every file of the programs that logs.
func inSources(t *testing.T, f func(name string, file *ast.File)) {
	t.Helper()
	for _, pattern := range []string{"../*.go", "../journal/*.go", "../store/*.go", "../loop/*.go", "../gate/*.go", "../status/*.go", "*.go", "../../cmd/msgmuxd/*.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("no files %s: %v", pattern, err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			f(name, file)
		}
	}
}

// literal is the value of a string in the code, "" for anything else.
func literal(e ast.Expr) string {
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		s, _ := strconv.Unquote(lit.Value)
		return s
	}
	return ""
}

// TestEveryEventIsExplained: the events in the code, the table of ids and the catalog have the same entries.
func TestEveryEventIsExplained(t *testing.T) {
	entries := catalog(t)
	inCode := make(map[string]bool)
	declared := make(map[string]string) // names of constants to events
	mentioned := make(map[string]int)   // how often a name stands in the code, its declaration included
	fields := map[string]bool{"MSGMUX_CHANNEL": true}
	inSources(t, func(name string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec: // EventX = "x", but not those of wire
				for i, id := range n.Names {
					if (strings.HasPrefix(id.Name, "Event") || strings.HasPrefix(id.Name, "event")) && i < len(n.Values) {
						if s := literal(n.Values[i]); s != "" {
							declared[id.Name] = s
						}
					}
				}
			case *ast.Ident:
				mentioned[n.Name]++
			case *ast.CallExpr: // "event", "x"; and names of fields
				for i, arg := range n.Args {
					if s := literal(arg); s == "event" && i+1 < len(n.Args) {
						if s := literal(n.Args[i+1]); s != "" {
							inCode[s] = true
						}
					} else if s != "" {
						fields["MSGMUX_"+strings.ToUpper(s)] = true
					}
				}
			}
			return true
		})
	})
	for name, event := range declared {
		if mentioned[name] > 1 {
			inCode[event] = true
		}
	}
	for event := range inCode {
		if control.MessageIDs[event] == "" {
			t.Errorf("the event %s has no id", event)
		}
	}
	known := make(map[string]string)
	for event, id := range control.MessageIDs {
		if !inCode[event] {
			t.Errorf("%s has an id, and no code logs it", event)
		}
		if other := known[id]; other != "" {
			t.Errorf("%s and %s have one id", event, other)
		}
		known[id] = event
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(id) {
			t.Errorf("%s: %q is no id", event, id)
		}
		if _, ok := entries[id]; !ok {
			t.Errorf("%s (%s) is not in the catalog", event, id)
		}
	}
	field := regexp.MustCompile(`@([A-Z_]+)@`)
	for id, e := range entries {
		if known[id] == "" {
			t.Errorf("the catalog has %s, which is no event", id)
		}
		for _, header := range []string{"Subject", "Defined-By", "Support", "Documentation"} {
			if e.headers[header] == "" {
				t.Errorf("%s has no %s", known[id], header)
			}
		}
		if len(e.text) < 80 {
			t.Errorf("%s is hardly explained: %q", known[id], e.text)
		}
		for _, m := range field.FindAllStringSubmatch(e.headers["Subject"]+e.text, -1) {
			if !fields[m[1]] {
				t.Errorf("%s has the field %s, which no entry of the journal has", known[id], m[1])
			}
		}
	}
}

// TestJournalctlReadsTheCatalog: it compiles, and each entry can be shown.
func TestJournalctlReadsTheCatalog(t *testing.T) {
	journalctl := program(t, "journalctl")
	root := t.TempDir()
	text, err := os.ReadFile(catalogFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/usr/lib/systemd/catalog", "/var/lib/systemd/catalog"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(root+"/usr/lib/systemd/catalog/msgmux.catalog", text, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(journalctl, "--root="+root, "--update-catalog").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for event, id := range control.MessageIDs {
		out, err := exec.Command(journalctl, "--root="+root, "--dump-catalog", id).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Subject: ") {
			t.Errorf("%s: %v: %s", event, err, out)
		}
	}
}
