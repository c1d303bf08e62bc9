// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Page is the text of a recipe.
type Page struct {
	t    testing.TB
	name string
	text string
}

// ReadDocument reads a file of the repository.
func ReadDocument(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(Top(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// ReadPage reads a page of docs/recipes.
func ReadPage(t testing.TB, name string) Page {
	t.Helper()
	return Page{t, name, ReadDocument(t, "docs/recipes/"+name)}
}

// File is the content of a file as the page shows it: the fenced block below a line with the file's name alone, in code
// quotes. replace holds pairs, old and new, each of which must be there: what the page calls a path of the system and
// the test has elsewhere.
func (p Page) File(name string, replace ...string) string {
	p.t.Helper()
	found := regexp.MustCompile("(?ms)^`"+regexp.QuoteMeta(name)+"`\n\n```[a-z]*\n(.*?)^```$").FindAllStringSubmatch(p.text, -1)
	if len(found) != 1 {
		p.t.Fatalf("%s shows %d files %s, not one", p.name, len(found), name)
	}
	return p.with(found[0][1], replace)
}

// Commands is the script in the block whose fence has a name behind the language.
func (p Page) Commands(name string, replace ...string) string {
	p.t.Helper()
	found := regexp.MustCompile("(?ms)^```sh "+regexp.QuoteMeta(name)+"\n(.*?)^```$").FindAllStringSubmatch(p.text, -1)
	if len(found) != 1 {
		p.t.Fatalf("%s has %d blocks of commands called %s, not one", p.name, len(found), name)
	}
	return p.with(found[0][1], replace)
}

// Source is the program in the page's one block of a language.
func (p Page) Source(language string, replace ...string) string {
	p.t.Helper()
	found := regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(p.text, -1)
	if len(found) != 1 {
		p.t.Fatalf("%s has %d blocks in %s, not one", p.name, len(found), language)
	}
	return p.with(found[0][1], replace)
}

// Write puts what the page shows into a file below dir, and returns the file's path.
func Write(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func (p Page) with(text string, replace []string) string {
	p.t.Helper()
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			p.t.Fatalf("%s does not show %q where the test puts something in its place", p.name, replace[i])
		}
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	return text
}
