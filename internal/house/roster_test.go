// SPDX-License-Identifier: Apache-2.0

package house_test

import (
	"go/ast"
	"path"
	"testing"
)

// TestTheRosterStaysOnItsThread: to hold a *loop.Roster is to be on the data thread. So outside of its room it is only ever a
// parameter: in no variable, field or result can it be kept, and no goroutine is begun where it is at hand.
func TestTheRosterStaysOnItsThread(t *testing.T) {
	uses := 0
	for name, file := range parseAll(t, 0) {
		if path.Dir(name) == "broker/loop" {
			continue
		}
		given := map[*ast.SelectorExpr]bool{}
		ast.Inspect(file, func(n ast.Node) bool {
			var body *ast.BlockStmt
			var kind *ast.FuncType
			switch n := n.(type) {
			case *ast.FuncDecl:
				kind, body = n.Type, n.Body
			case *ast.FuncLit:
				kind, body = n.Type, n.Body
			case *ast.FuncType:
				kind = n
			case *ast.SelectorExpr:
				if isRoster(n) {
					if uses++; !given[n] {
						t.Errorf("%s: the roster is more than a parameter here: it can be kept, and used by another thread", name)
					}
				}
				return true
			}
			if kind == nil || !takesRoster(kind, given) || body == nil {
				return true
			}
			ast.Inspect(body, func(n ast.Node) bool {
				if _, ok := n.(*ast.GoStmt); ok {
					t.Errorf("%s: a goroutine begins where the roster is at hand", name)
				}
				return true
			})
			return true
		})
	}
	if uses < 5 {
		t.Errorf("the roster is used in %d places only: this test looks for the wrong name", uses)
	}
}

// takesRoster says whether a function has the roster as a parameter, and notes where it stands there.
func takesRoster(f *ast.FuncType, given map[*ast.SelectorExpr]bool) (takes bool) {
	for _, field := range f.Params.List {
		if p, ok := field.Type.(*ast.StarExpr); ok {
			if s, ok := p.X.(*ast.SelectorExpr); ok && isRoster(s) {
				given[s], takes = true, true
			}
		}
	}
	return takes
}

// isRoster recognises loop.Roster.
func isRoster(s *ast.SelectorExpr) bool {
	from, ok := s.X.(*ast.Ident)
	return ok && from.Name == "loop" && s.Sel.Name == "Roster"
}
