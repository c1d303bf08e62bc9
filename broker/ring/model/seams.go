// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Source is what a program says of its operations by its names.
type Source struct {
	Seams      []string // "recv.logged", sorted
	Calls      []string // system calls that leave a commit record: "recv", sorted
	Operations []string // of the log: "RECV", sorted
}

// ReadSource reads the Go files below root, tests left out.
//
// A seam is a text WORD.WORD that is given to Seam, or to log or done, which call it, or stands in a value of a type seams. A
// call is one of the two that take an array of headers, by the name that is given first. An operation is a constant of a name
// like opRecv; opNone is none.
func ReadSource(root string) (Source, error) {
	var s Source
	found := make(map[*[]string]map[string]bool)
	add := func(list *[]string, name string) {
		if found[list] == nil {
			found[list] = make(map[string]bool)
		}
		found[list][name] = true
	}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			s.node(n, add)
			return true
		})
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("cannot read the seams: %w", err)
	}
	for list, names := range found {
		*list = slices.Sorted(maps.Keys(names))
	}
	return s, nil
}

var (
	seamName      = regexp.MustCompile(`^[a-z]+\.[a-z]+$`)
	operationName = regexp.MustCompile(`^op[A-Z][a-z]+$`)
)

func (s *Source) node(n ast.Node, add func(*[]string, string)) {
	switch n := n.(type) {
	case *ast.CallExpr:
		f, ok := n.Fun.(*ast.SelectorExpr)
		switch {
		case !ok:
		case slices.Contains([]string{"Seam", "log", "done"}, f.Sel.Name):
			for _, arg := range n.Args {
				if name := text(arg); seamName.MatchString(name) {
					add(&s.Seams, name)
				}
			}
		case slices.Contains([]string{"Recvmmsg", "Sendmmsg"}, f.Sel.Name):
			if name := text(n.Args[0]); name != "" {
				add(&s.Calls, name)
			}
		}
	case *ast.CompositeLit:
		if t, ok := n.Type.(*ast.Ident); !ok || t.Name != "seams" {
			return
		}
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				e = kv.Value
			}
			if name := text(e); seamName.MatchString(name) {
				add(&s.Seams, name)
			}
		}
	case *ast.GenDecl:
		s.constants(n, add)
	}
}

// text is what a literal text says; "" if it is something else.
func text(e ast.Expr) string {
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		if s, err := strconv.Unquote(lit.Value); err == nil {
			return s
		}
	}
	return ""
}

func (s *Source) constants(decl *ast.GenDecl, add func(*[]string, string)) {
	if decl.Tok != token.CONST {
		return
	}
	for _, spec := range decl.Specs {
		if v, ok := spec.(*ast.ValueSpec); ok {
			for _, name := range v.Names {
				if operationName.MatchString(name.Name) && name.Name != "opNone" {
					add(&s.Operations, strings.ToUpper(strings.TrimPrefix(name.Name, "op")))
				}
			}
		}
	}
}
