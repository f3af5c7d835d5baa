//go:build tools

// Names the one command that this module exists for, so that its dependencies are recorded in go.sum.
package tools

import _ "github.com/nats-io/nats-server/v2"
