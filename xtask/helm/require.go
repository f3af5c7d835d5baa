//go:build tools

// Names the one command that this module exists for, so that its dependencies are recorded in go.sum.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
