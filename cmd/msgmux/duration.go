// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
)

// span is a flag that holds a time that must pass: a Go duration such as 1.5s or 300ms, or a plain number of seconds.
// 0 is "not given".
type span time.Duration

func (s *span) String() string {
	if *s == 0 {
		return ""
	}
	return time.Duration(*s).String()
}

func (s *span) Type() string { return "DURATION" }

func (s *span) Set(text string) error {
	d, err := parseDuration(text)
	if err != nil || d <= 0 {
		return errors.New("want a duration above 0, such as 1.5s, or a number of seconds")
	}
	*s = span(d)
	return nil
}

// parseDuration reads a duration as Go writes it, or a number of seconds, the way sleep(1) and most tools take it.
func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err == nil {
		return d, nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(math.Abs(seconds) < 1e9) { // nor is NaN below it
		return 0, errors.New("not a duration")
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// foreverWord is a patience without end, here as in a registration.
const foreverWord = "forever"

// patienceExamples are what a TAB offers for it.
var patienceExamples = []string{"0", "1s", "10s", foreverWord}

// patience is a flag that holds a sink's patience; nil is "not given".
type patience struct{ value *time.Duration }

func (p *patience) String() string {
	if p.value == nil {
		return ""
	}
	if *p.value == msgmux.Forever {
		return foreverWord
	}
	return p.value.String()
}

func (p *patience) Type() string { return "DURATION" }

func (p *patience) Set(text string) error {
	d, err := parseDuration(text)
	if text == foreverWord {
		d, err = msgmux.Forever, nil
	}
	if err != nil || d < 0 {
		return errors.New("want a duration such as 1.5s, a number of seconds, or forever")
	}
	p.value = &d
	return nil
}

// keep is a flag that holds how long something is kept. 0 is "not given".
type keep time.Duration

func (k *keep) String() string {
	switch *k {
	case 0:
		return ""
	case keep(msgmux.Forever):
		return foreverWord
	}
	return time.Duration(*k).String()
}

func (k *keep) Type() string { return "DURATION" }

func (k *keep) Set(text string) error {
	var p patience
	if err := p.Set(text); err != nil || *p.value == 0 {
		return errors.New("want a duration above 0 such as 10m, a number of seconds, or forever")
	}
	*k = keep(*p.value)
	return nil
}

// byteSize is a flag that holds a number of bytes, which K and M multiply by 1024 and its square. 0 is "not given".
type byteSize int

func (b *byteSize) String() string {
	if *b == 0 {
		return ""
	}
	return strconv.Itoa(int(*b))
}

func (b *byteSize) Type() string { return "SIZE" }

func (b *byteSize) Set(text string) error {
	digits, unit := text, 1
	if n := len(text) - 1; n > 0 && text[n] == 'K' {
		digits, unit = text[:n], 1<<10
	} else if n > 0 && text[n] == 'M' {
		digits, unit = text[:n], 1<<20
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > msgmux.MaxMessage/unit {
		return fmt.Errorf("want a number of bytes from 1 to %d, or one with K or M", msgmux.MaxMessage)
	}
	*b = byteSize(n * unit)
	return nil
}
