module github.com/msgmux/msgmux/docs/recipes

go 1.26.0

require (
	github.com/msgmux/msgmux v0.0.0-00010101000000-000000000000
	golang.org/x/sys v0.49.0
)

require (
	github.com/coreos/go-systemd/v22 v22.7.0 // indirect
	github.com/godbus/dbus/v5 v5.2.4 // indirect
)

// The recipes are about the broker and the client beside them, never a published version.
replace github.com/msgmux/msgmux => ../..
