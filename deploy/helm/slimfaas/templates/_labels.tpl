{{/* What selects the gateway's pods. There is one gateway in a namespace, so the release's name has no part in it. */}}
{{- define "slimfaas.selector" -}}
app.kubernetes.io/name: slimfaas
{{- end }}

{{- define "slimfaas.metadata" -}}
name: slimfaas
namespace: {{ .Release.Namespace | quote }}
labels: {{- include "slimfaas.labels" . | nindent 2 }}
{{- end }}

{{- define "slimfaas.labels" -}}
{{ include "slimfaas.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What the gateway does in every namespace that it serves. */}}
{{- define "slimfaas.rules" -}}
- apiGroups: [apps]
  resources: [deployments, statefulsets, replicasets]
  verbs: [list, watch]
- apiGroups: [apps]
  resources: [deployments/scale, statefulsets/scale]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [list, watch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "slimfaas.agentMetadata" -}}
name: slimfaas-agent
namespace: {{ .Release.Namespace | quote }}
labels: {{- include "slimfaas.labels" . | nindent 2 }}
{{- end }}

{{- define "slimfaas.identitySecret" -}}
{{ .Values.agent.existingSecret | default "slimfaas-identity" | quote }}
{{- end }}

{{- define "slimfaas.peerSecret" -}}
{{ .Values.peerKey.existingSecret | default "slimfaas-peer" | quote }}
{{- end }}
