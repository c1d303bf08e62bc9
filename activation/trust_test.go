// SPDX-License-Identifier: Apache-2.0

package activation_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/msgmux/msgmux/activation"
	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/test"
)

// TestCheckFolder: what others own, could replace or lead elsewhere is not ours.
func TestCheckFolder(t *testing.T) {
	need.Root(t, "unit")
	const other = 65533
	for _, c := range []struct {
		name string
		make func(top string) (dir string)
		ok   bool
	}{
		{"ours", func(top string) string { return top }, true},
		{"another's", func(top string) string { must(t, os.Chown(top, other, other)); return top }, false},
		{"ours in another's", func(top string) string {
			must(t, os.Mkdir(top+"/a", 0o755))
			must(t, os.Mkdir(top+"/a/b", 0o755))
			must(t, os.Chown(top+"/a", other, other))
			return top + "/a/b"
		}, false},
		{"a link", func(top string) string {
			must(t, os.Mkdir(top+"/a", 0o755))
			must(t, os.Symlink(top+"/a", top+"/link"))
			return top + "/link"
		}, true},
		{"by way of root's link", func(top string) string {
			must(t, os.MkdirAll(top+"/a/b", 0o755))
			must(t, os.Symlink(top+"/a", top+"/link"))
			return top + "/link/b"
		}, true},
		{"by way of another's link", func(top string) string {
			must(t, os.MkdirAll(top+"/a/b", 0o755))
			must(t, os.Symlink(top+"/a", top+"/link"))
			must(t, os.Lchown(top+"/link", other, other))
			return top + "/link/b"
		}, false},
		{"by way of root's link into another's", func(top string) string {
			must(t, os.MkdirAll(top+"/a/b", 0o755))
			must(t, os.Chown(top+"/a", other, other))
			must(t, os.Symlink(top+"/a", top+"/link"))
			return top + "/link/b"
		}, false},
		{"everybody may write", func(top string) string { must(t, os.Chmod(top, 0o777)); return top }, false},
		{"everybody may add", func(top string) string { must(t, os.Chmod(top, 0o777|os.ModeSticky)); return top }, true},
		{"a group may write", func(top string) string { must(t, os.Chmod(top, 0o775)); return top }, true},
		{"in one where everybody may write", func(top string) string {
			must(t, os.Mkdir(top+"/a", 0o755))
			must(t, os.Chmod(top, 0o777))
			return top + "/a"
		}, false},
	} {
		top := test.Folder(t)
		must(t, os.Chmod(top, 0o755))
		dir := c.make(top)
		if err := activation.CheckFolder(dir); (err == nil) != c.ok || err != nil && !errors.Is(err, activation.ErrForeign) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "nothing"), "/dev/null"} {
		if err := activation.CheckFolder(path); err == nil || errors.Is(err, activation.ErrForeign) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestBindRefusesForeignFolder and leaves it as it was.
func TestBindRefusesForeignFolder(t *testing.T) {
	need.Root(t, "unit")
	dir := test.Folder(t)
	must(t, os.Chown(dir, 65533, 65533))
	if s, err := activation.Bind(dir, 0o660); !errors.Is(err, activation.ErrForeign) {
		if err == nil {
			s.Unlink()
			closeAll(s)
		}
		t.Errorf("got %v", err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("it holds %v, %v", list, err)
	}
}
