//go:build tools

// Package tools pins the stretcher that the playground and the tests run: `go install …@v1.1.0` needs a list of
// versions that not every module proxy gives, a module of our own needs none.
package tools

import _ "github.com/fujiwara/stretcher/cmd/stretcher"
