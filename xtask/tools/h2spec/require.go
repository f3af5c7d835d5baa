// Names the one command that this module exists for, so that its dependencies are recorded in go.sum.
//go:build tools

package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
