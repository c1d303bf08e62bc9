// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"time"
)

// commas writes a number with its thousands apart: 1,234,567.
func commas(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// byteCount writes a number of bytes with three digits and a binary unit.
func byteCount(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 999.5 && unit < 4 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%s %ciB", digits(value), "KMGTP"[unit])
}

// threeDigits writes a short time with three digits, in microseconds, milliseconds or seconds.
func threeDigits(d time.Duration) string {
	value, unit := float64(d)/1e3, 0
	for value >= 999.5 && unit < 2 {
		value, unit = value/1e3, unit+1
	}
	return digits(value) + " " + []string{"us", "ms", "s"}[unit]
}

// digits writes three digits of a number below 1000.
func digits(value float64) string {
	after := 2
	if value >= 99.95 {
		after = 0
	} else if value >= 9.995 {
		after = 1
	}
	return strconv.FormatFloat(value, 'f', after, 64)
}

// plural is "1 message" or "2 messages".
func plural(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return commas(n) + " " + noun + "s"
}

// roughly writes a time that has passed with one or two units, as people say it.
func roughly(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
