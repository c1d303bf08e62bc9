module github.com/msgmux/msgmux/broker/bench

go 1.26.0

require golang.org/x/sys v0.49.0

// The broker's own library, for its clients; the benchmark never uses a
// published version of it.
replace github.com/msgmux/msgmux => ../..
