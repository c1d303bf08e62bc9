// SPDX-License-Identifier: Apache-2.0

package house_test

// The rules of the house that a compiler does not know: which room may import which, where unsafe may stand, what is not
// to be called what. Prose is checked in house_docs_test.go.

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const module = "github.com/msgmux/msgmux"

// What x/sys/unix and the other modules from outside are called in the tables below.
const (
	unixModule    = "golang.org/x/sys"
	systemdModule = "github.com/coreos/go-systemd/v22"
	dbusModule    = "github.com/godbus/dbus/v5"
	cobraModule   = "github.com/spf13/cobra"
	pflagModule   = "github.com/spf13/pflag"
	textModule    = "golang.org/x/text" // docs/decisions/0018, how wide a character is
)

// imports holds every import edge that is allowed, from the ground up: a room may import what stands here and the
// standard library. An edge that is missing is not forbidden by accident: imports only go down, and a new one is a
// decision about the design (docs/design.md).
var imports = map[string][]string{
	"internal/wire":       {},
	"internal/fair":       {},
	"internal/flags":      {pflagModule},
	"internal/follow":     {"internal/sys"},
	"internal/histogram":  {},
	"internal/stamp":      {},
	"internal/sys":        {unixModule},
	"internal/subuid":     {},
	"internal/view":       {"internal/sys", "internal/wire"},
	"broker/ring/mem":     {unixModule, "internal/sys"},
	"broker/ring/layout2": {unixModule, "internal/sys"},
	"broker/ring":         {unixModule, "broker/ring/mem", "broker/ring/layout2", "internal/sys", "internal/view", "internal/wire"},
	"activation":          {unixModule, systemdModule, "internal/wire"},
	"activation/hold":     {unixModule, "activation"},
	"broker/journal":      {"internal/wire"},
	"broker/scout":        {unixModule, "internal/sys"},
	"broker/owner":        {"broker/scout", "internal/sys", "internal/wire"},
	"broker/store":        {"activation", "broker/journal", "broker/ring", "internal/sys"},
	"broker/loop":         {"activation", "broker/journal", "broker/ring", "broker/store", "internal/sys", "internal/view", "internal/wire"},
	"broker/gate": {"activation", "broker/journal", "broker/loop", "broker/owner", "broker/ring", "broker/store",
		"internal/fair", "internal/subuid", "internal/sys", "internal/wire"},
	"broker/status": {"activation", "broker/journal", "broker/loop", "broker/ring", "internal/sys", "internal/wire"},
	"broker": {"activation", "broker/gate", "broker/journal", "broker/loop", "broker/ring", "broker/status", "broker/store",
		"internal/subuid", "internal/sys", "internal/wire"},
	"broker/control": {systemdModule, dbusModule, "internal/subuid", "internal/wire"},
	"client":         {"internal/wire", "internal/sys", "internal/view"}, // sys for calls that do not tell the scheduler; it brings x/sys/unix alone
	"cmd/msgmuxd":    {cobraModule, pflagModule, "activation", "activation/hold", "broker", "broker/control", "broker/ring", "broker/scout", "internal/flags", "internal/stamp", "internal/sys", "internal/wire"},
	// sys for terminals, and for what the kernel tells of sockets.
	"cmd/msgmux": {cobraModule, systemdModule, dbusModule, textModule, "client", "internal/flags", "internal/follow", "internal/histogram", "internal/stamp", "internal/sys", "internal/wire"},

	"internal/house":     {},
	"packaging":          {},
	"packaging/generate": {},
	"units":              {},

	// For tests only: nothing but tests and one another may import them.
	"internal/need":              {},
	"internal/test":              {},
	"broker/ring/model":          {},
	"broker/ring/layout2/writer": {unixModule, "broker/ring/mem", "internal/sys", "internal/wire"},
	"activation/activationtest":  {unixModule},
	"units/client":               {"client"},
	"docs/examples/tailer":       {"client"},
	"units/rig":                  {unixModule, "internal/need", "internal/test", "units/rig/load/tally"},
	"units/rig/load":             {unixModule, "internal/sys", "internal/view", "units/rig/load/tally"},
	"units/rig/load/tally":       {},
	"client/brokertest":          {"broker", "broker/brokertest", "client"},
	"broker/brokertest":          {unixModule, "activation", "broker", "broker/control", "broker/ring", "internal/sys", "internal/test", "internal/view", "internal/wire"},
	"broker/crashtest":           {unixModule, "activation", "activation/activationtest", "broker", "broker/control", "broker/journal", "broker/ring", "internal/sys", "internal/view", "internal/wire"},
}

// testImports holds what the tests of a room may import beside what the room itself may; "*" is for all.
var testImports = map[string][]string{
	"broker/ring":         {"broker/ring/layout2/writer"},
	"broker/ring/layout2": {"broker/ring/layout2/writer", "internal/wire"},
	"*":                   {unixModule, "broker/brokertest", "internal/need", "internal/test"},
	"activation":          {"activation/activationtest"},
	"client":              {"broker", "client/brokertest"},
	"internal/house":      {"client"},
	"packaging":           {"units/rig", "units/rig/load/tally"},
	"units":               {"units/rig", "units/rig/load/tally"},
	"broker/control":      {"broker"},
	"broker":              {"internal/view"},
	"broker/crashtest":    {"broker/ring/model"},
	"cmd/msgmux":          {pflagModule},
}

// modules are the modules beside the main one, with the rooms of the main one that they may import. What is a product holds to the
// rules of the house as the main one does; the others are for tests.
var modules = map[string]struct {
	product bool
	imports []string
}{
	"cmd/msgmux-nats":     {true, []string{"activation", "broker/control", "client", "internal/flags", "internal/stamp", "internal/wire"}},
	"docs/recipes":        {},
	"docs/recipes/agents": {},
	"docs/recipes/statsd": {},
	"internal/bench":      {},
}

// forProducts are what the tests of products may import beside.
var forProducts = []string{"activation/activationtest", "internal/need"}

// wallRooms are the rooms in which unsafe and raw system calls may stand, in files named *_unsafe.go and in tests.
var wallRooms = []string{"internal/sys", "broker/ring", "broker/ring/mem", "broker/ring/layout2", "broker/ring/layout2/writer"}

// forbidden are words that say nothing about what a thing is.
var forbidden = []string{"manager", "handler", "helper", "util", "utils"}

// saysSomething tells whether a forbidden word is the right one in a file after all: systemd calls itself the service
// manager, and activation is what speaks with it.
func saysSomething(word, file string) bool {
	return word == "manager" && strings.HasPrefix(file, "activation/")
}

// TestMain has every test look at the repository from its top, from where documents and commands are named.
func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// TestImportsOnlyGoDown compares what each package imports with the tables above, and those with what is imported: an edge
// that nobody uses is no decision any more.
func TestImportsOnlyGoDown(t *testing.T) {
	packages := goList(t)
	t.Run("no slack", func(t *testing.T) { checkSlack(t, packages) })
	for _, p := range packages {
		room := relative(p.ImportPath)
		allowed, known := imports[room]
		if !known {
			t.Errorf("package %s is not in the table of imports: add it with what it may import", room)
			continue
		}
		if len(p.CgoFiles) > 0 {
			t.Errorf("package %s uses cgo: %v", room, p.CgoFiles)
		}
		for _, edge := range edges(p.Imports) {
			if !slices.Contains(allowed, edge) {
				t.Errorf("package %s imports %s, which the table does not allow", room, edge)
			}
		}
		inTests := slices.Concat(allowed, testImports["*"], testImports[room], []string{room})
		for _, edge := range edges(slices.Concat(p.TestImports, p.XTestImports)) {
			if !slices.Contains(inTests, edge) {
				t.Errorf("a test of package %s imports %s, which the tables do not allow", room, edge)
			}
		}
	}
}

// checkSlack looks for entries of the tables that allow what nobody does.
func checkSlack(t *testing.T, packages []listed) {
	inTests := map[string][]string{}
	rooms := map[string]bool{}
	for _, p := range packages {
		room := relative(p.ImportPath)
		rooms[room] = true
		used := edges(p.Imports)
		for _, edge := range imports[room] {
			if !slices.Contains(used, edge) {
				t.Errorf("package %s may import %s, and does not", room, edge)
			}
		}
		used = edges(slices.Concat(p.TestImports, p.XTestImports))
		inTests[room] = used
		for _, edge := range used {
			if !slices.Contains(slices.Concat(imports[room], testImports[room]), edge) {
				inTests["*"] = append(inTests["*"], edge)
			}
		}
	}
	for room := range imports {
		if !rooms[room] {
			t.Errorf("the table has a room %s, and the tree has not", room)
		}
	}
	for room, allowed := range testImports {
		for _, edge := range allowed {
			if !slices.Contains(inTests[room], edge) || slices.Contains(imports[room], edge) || room != "*" && slices.Contains(testImports["*"], edge) {
				t.Errorf("tests of %s may import %s, which none needs, or all may anyway", room, edge)
			}
		}
	}
}

// TestUnsafeStaysBehindTheWall looks for the package unsafe and for system calls by number.
func TestUnsafeStaysBehindTheWall(t *testing.T) {
	rawCall := regexp.MustCompile(`^(Raw)?(Vfork)?Syscall[0-9]*(NoError)?$`)
	for name, file := range parseAll(t, 0) {
		behind := slices.Contains(wallRooms, path.Dir(name)) &&
			(strings.HasSuffix(name, "_unsafe.go") || strings.HasSuffix(name, "_test.go"))
		if behind {
			continue
		}
		for _, spec := range file.Imports {
			if spec.Path.Value == `"unsafe"` {
				t.Errorf("%s imports unsafe: that belongs in a file *_unsafe.go of %v", name, wallRooms)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok || !rawCall.MatchString(call.Sel.Name) {
				return true
			}
			if from, ok := call.X.(*ast.Ident); ok && (from.Name == "unix" || from.Name == "syscall") {
				t.Errorf("%s uses %s.%s: that belongs in a file *_unsafe.go of %v", name, from.Name, call.Sel.Name, wallRooms)
			}
			return true
		})
	}
}

// TestEveryFileNamesItsLicense wants the SPDX line at the top of all that is code.
func TestEveryFileNamesItsLicense(t *testing.T) {
	for name, text := range files(t) {
		isCode := slices.Contains([]string{".go", ".sh", ".c", ".h", ".py"}, path.Ext(name)) || bytes.HasPrefix(text, []byte("#!"))
		if !isCode {
			continue
		}
		head := bytes.SplitN(text, []byte("\n"), 4)
		found := slices.ContainsFunc(head[:min(3, len(head))], func(line []byte) bool {
			return bytes.HasSuffix(line, []byte(" SPDX-License-Identifier: Apache-2.0"))
		})
		if !found {
			t.Errorf("%s: the first lines lack SPDX-License-Identifier: Apache-2.0", name)
		}
	}
}

// TestEveryPackageIsIntroducedOnce wants one package comment in each package, which says, in all but the commands and what
// users of the client import, that the package makes no compatibility promise.
func TestEveryPackageIsIntroducedOnce(t *testing.T) {
	type introduction struct {
		command bool
		text    []string
	}
	packages := map[string]*introduction{}
	for name, file := range parseAll(t, parser.PackageClauseOnly|parser.ParseComments) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		room := path.Dir(name)
		if packages[room] == nil {
			packages[room] = &introduction{command: file.Name.Name == "main"}
		}
		if file.Doc == nil {
			continue
		}
		text := file.Doc.Text()
		if strings.Contains(text, "SPDX") {
			t.Errorf("%s: an empty line must separate the license from the package clause", name)
		}
		packages[room].text = append(packages[room].text, text)
	}
	for room, p := range packages {
		if len(p.text) != 1 {
			t.Errorf("package %s has %d package comments, not one", room, len(p.text))
			continue
		}
		plain := strings.Join(strings.Fields(p.text[0]), " ")
		promised := room == "client" || room == "client/brokertest"
		if !promised && !p.command && !strings.Contains(plain, "compatibility") {
			t.Errorf("the package comment of %s does not say that the package makes no compatibility promise", room)
		}
	}
}

// TestNamesSayWhatThingsAre looks at the names of files, and at every name that the code declares.
func TestNamesSayWhatThingsAre(t *testing.T) {
	reported := map[string]bool{}
	check := func(file, name string) {
		for _, word := range words(name) {
			if slices.Contains(forbidden, word) && !saysSomething(word, file) && !reported[file+name] {
				reported[file+name] = true
				t.Errorf("%s: the name %s has the word %s: say what it is instead", file, name, word)
			}
		}
	}
	for name := range files(t) {
		check(name, name)
	}
	for name, file := range parseAll(t, 0) {
		var visit func(ast.Node) bool
		visit = func(n ast.Node) bool {
			switch n := n.(type) {
			// Names from elsewhere (t.Helper, http.Server{Handler: ...}) are not ours to choose; ours were seen where they
			// are declared.
			case *ast.SelectorExpr:
				ast.Inspect(n.X, visit)
				return false
			case *ast.KeyValueExpr:
				ast.Inspect(n.Value, visit)
				return false
			case *ast.Ident:
				check(name, n.Name)
			}
			return true
		}
		ast.Inspect(file, visit)
	}
}

// TestNoPathOfOneMachine looks for folders that only exist where somebody wrote the code. Alice lives in the containers
// of the tests and in the examples.
func TestNoPathOfOneMachine(t *testing.T) {
	machine := regexp.MustCompile("(?m)(^|[\\s\"'`=(:,])/(home|root|Users|work)/[A-Za-z0-9_.-]+")
	for name, text := range files(t) {
		if !isText(text) {
			continue
		}
		for _, found := range machine.FindAll(text, -1) {
			if !bytes.HasSuffix(found, []byte("/home/alice")) {
				t.Errorf("%s names a folder of one machine:%s", name, found)
			}
		}
	}
}

// listed is what `go list -json` tells about a package.
type listed struct {
	ImportPath                         string
	CgoFiles                           []string
	Imports, TestImports, XTestImports []string
}

// TestModulesAreKnown and that products among them import what they may; and what is only for their tests is in no program.
func TestModulesAreKnown(t *testing.T) {
	for name := range files(t) {
		if folder := path.Dir(name); path.Base(name) == "go.mod" && folder != "." {
			if _, known := modules[folder]; !known {
				t.Errorf("the module %s is not in the table of modules", folder)
			}
		}
	}
	for folder, m := range modules {
		if _, err := os.Stat(path.Join(folder, "go.mod")); err != nil {
			t.Errorf("the table has a module %s, and the tree has not", folder)
		}
		if !m.product {
			continue
		}
		used := map[string]bool{}
		check := func(p listed, imports, allowed []string) {
			for _, edge := range edges(imports) {
				if strings.Contains(strings.SplitN(edge, "/", 2)[0], ".") || edge == folder || strings.HasPrefix(edge, folder+"/") {
					continue // other modules are go.mod's to name, and the module's own rooms
				}
				if used[edge] = true; !slices.Contains(allowed, edge) {
					t.Errorf("%s imports %s, which the table of modules does not allow", relative(p.ImportPath), edge)
				}
			}
		}
		for _, p := range goListIn(t, folder) {
			check(p, p.Imports, m.imports)
			check(p, slices.Concat(p.TestImports, p.XTestImports), slices.Concat(m.imports, forProducts))
		}
		for _, edge := range m.imports {
			if !used[edge] {
				t.Errorf("module %s may import %s, and does not", folder, edge)
			}
		}
	}
	cmd := exec.Command("go", "list", "-deps", ".")
	cmd.Dir = "cmd/msgmux-nats"
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cannot list what is in the bridge: %v", err)
	}
	if strings.Contains(string(out), "nats-server") {
		t.Error("a part of nats-server is in the bridge: it is for its tests")
	}
}

// goList describes every package of this module.
func goList(t *testing.T) []listed { return goListIn(t, ".") }

// goListIn is goList for the module in a folder.
func goListIn(t *testing.T, folder string) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,CgoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Dir = folder
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cannot list the packages: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("cannot read the list of packages: %v", err)
		}
		all = append(all, p)
	}
}

// edges turns import paths into the names of the tables: rooms and outside modules, without the standard library.
func edges(imports []string) []string {
	var names []string
	for _, imp := range imports {
		first, _, _ := strings.Cut(imp, "/")
		switch {
		case imp == module || strings.HasPrefix(imp, module+"/"):
			names = append(names, relative(imp))
		case strings.Contains(first, "."):
			name := imp
			for _, known := range []string{unixModule, systemdModule, dbusModule, cobraModule, pflagModule, textModule} {
				if imp == known || strings.HasPrefix(imp, known+"/") {
					name = known
				}
			}
			names = append(names, name)
		}
	}
	return names
}

// relative turns an import path of this module into its folder.
func relative(importPath string) string {
	return path.Clean("./" + strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/"))
}

// words takes a name apart, "newSinkTable" and "sink_table" alike, into lower-case words.
func words(name string) []string {
	var spaced strings.Builder
	for _, r := range name {
		if unicode.IsUpper(r) {
			spaced.WriteByte(' ')
		}
		spaced.WriteRune(unicode.ToLower(r))
	}
	return strings.FieldsFunc(spaced.String(), func(r rune) bool { return !unicode.IsLetter(r) })
}

// parseAll parses the Go files of the products, tests included.
func parseAll(t *testing.T, mode parser.Mode) map[string]*ast.File {
	t.Helper()
	parsed := map[string]*ast.File{}
	for name, text := range files(t) {
		if path.Ext(name) != ".go" || strings.Contains(name, "testdata/") || inNestedModule(name) {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, mode|parser.SkipObjectResolution)
		if err != nil {
			t.Fatalf("cannot parse %s: %v", name, err)
		}
		parsed[name] = file
	}
	return parsed
}

// inNestedModule tells whether a folder between name and the top has a go.mod of its own, and is no product.
func inNestedModule(name string) bool {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if modules[dir].product {
			return false
		}
		if _, err := os.Stat(path.Join(dir, "go.mod")); err == nil {
			return true
		}
	}
	return false
}

// files reads every file of the repository, by its slash-separated name from the top; what builds leave is not part of it.
func files(t *testing.T) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", "bin", "build"}, entry.Name()):
			return fs.SkipDir
		case !entry.Type().IsRegular() || name == ".git" || path.Ext(name) == ".test" || path.Ext(name) == ".prof":
			return nil
		}
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // an editor's or a compiler's file of a moment
		}
		all[name] = text
		return err
	})
	if err != nil {
		t.Fatalf("cannot read the repository: %v", err)
	}
	return all
}

// isText tells text from pictures, programs and the like by their first bytes.
func isText(b []byte) bool { return !bytes.Contains(b[:min(512, len(b))], []byte{0}) }
