// SPDX-License-Identifier: Apache-2.0

package subuid

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

// people is a passwd(5) of three.
const people = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001:,,,:/:/bin/sh\nshort:x\nbad:x:y:1::/:/\n"

func parse(text string) Ranges {
	return Parse(strings.NewReader(text), names(strings.NewReader(people)))
}

func TestOwner(t *testing.T) {
	for _, c := range []struct {
		name, text string
		owners     map[uint32]uint32
	}{
		{"as useradd writes it", "ann:100000:65536\nbob:165536:65536\n",
			map[uint32]uint32{0: 0, 1000: 1000, 99999: 99999, 100000: 1000, 165535: 1000, 165536: 1001, 231071: 1001, 231072: 231072, math.MaxUint32: math.MaxUint32}},
		{"several ranges, in any order", "bob:300000:10\nann:100000:10\nbob:200000:10\n",
			map[uint32]uint32{100009: 1000, 100010: 100010, 200000: 1001, 200009: 1001, 300009: 1001, 300010: 300010}},
		{"by number", "1000:100000:1\n4000:100001:1", map[uint32]uint32{100000: 1000, 100001: 4000, 100002: 100002}},
		{"to the last uid", "ann:4294967290:6\n", map[uint32]uint32{4294967289: 4294967289, math.MaxUint32: 1000}},
		{"nothing of the kind", "\n#ann:100000:1\nann:100000\nann:100000:1:1\nann:x:1\nann:100000:0\nann:-1:5\nann:4294967290:7\n:100000:1\n" +
			"nobody-knows:100000:5\n" + strings.Repeat("a", 2*maxLine) + ":100000:1\n",
			map[uint32]uint32{100000: 100000, 5: 5, 4294967290: 4294967290}},
		{"root's is nobody's", "root:100000:10\n0:100020:10\nann:100000:20", map[uint32]uint32{100000: 1000, 100020: 100020}},
		{"one's own uid within", "ann:500:1000\n", map[uint32]uint32{600: 600, 1000: 1000}},
		{"overlapping", "ann:100000:100\nbob:100050:100\nbob:100010:5", map[uint32]uint32{100049: 1000, 100099: 1000, 100100: 1001, 100149: 1001, 100150: 100150, 100012: 1000}},
		{"followed once", "ann:100000:10\n100000:200000:10", map[uint32]uint32{200000: 100000, 100000: 1000}},
	} {
		r := parse(c.text)
		for uid, want := range c.owners {
			if got := r.Owner(uid); got != want {
				t.Errorf("%s: %d is of %d, want %d", c.name, uid, got, want)
			}
		}
	}
	if got := (Ranges{}).Owner(7); got != 7 {
		t.Errorf("without ranges 7 is of %d", got)
	}
}

// TestParseIsBounded: a file that has no end, or no line ends, takes bounded memory.
func TestParseIsBounded(t *testing.T) {
	for _, unit := range []string{"ann:1:1\n", "x"} {
		if r := parse(strings.Repeat(unit, 1<<20)); len(r.sorted) > maxRanges {
			t.Errorf("%d ranges", len(r.sorted))
		}
	}
}

// TestFile: what is there is read when it has changed, and without a file everybody is himself.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	f := At(dir+"/subuid", dir+"/passwd")
	if got := f.Known(100005); got != 100005 {
		t.Errorf("before anybody looked 100005 is of %d", got)
	}
	if err := os.WriteFile(f.passwd, []byte(people), 0o644); err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		text string
		want uint32
	}{{"", 100005}, {"ann:100000:10", 1000}, {"bob:100000:10", 1001}, {"-", 100005}} {
		if step.text == "-" {
			os.Remove(f.ranges)
		} else if step.text != "" {
			if err := os.WriteFile(f.ranges, []byte(step.text), 0o644); err != nil {
				t.Fatal(err)
			}
			at := time.Unix(int64(1000+i), 0)
			os.Chtimes(f.ranges, at, at)
		}
		before := f.Owner(100005)
		if i > 0 && before == step.want {
			t.Errorf("step %d: read again at once", i)
		}
		f.looked = time.Now().Add(-lookEvery)
		if got := f.Owner(100005); got != step.want {
			t.Errorf("step %d: 100005 is of %d, want %d", i, got, step.want)
		}
		if got := f.Known(100005); got != step.want {
			t.Errorf("step %d: 100005 is known to be of %d, want %d", i, got, step.want)
		}
	}
	if got := Host.Owner(0); got != 0 {
		t.Errorf("root is %d", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("ann:100000:65536\n", uint32(100000))
	f.Add("1:0:4294967295", uint32(9))
	f.Fuzz(func(t *testing.T, text string, uid uint32) {
		r := parse(text)
		end := int64(-1)
		for _, o := range r.sorted {
			if int64(o.first) <= end || o.last < o.first {
				t.Fatalf("%v after %d", o, end)
			}
			end = int64(o.last)
		}
		if got := r.Owner(uid); got == 0 && uid != 0 {
			t.Fatal(fmt.Sprint(uid, " became root"))
		}
	})
}
