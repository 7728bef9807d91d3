{{- define "serval.name" -}}
{{- $name := .Values.fullnameOverride | default (ternary .Release.Name (printf "%s-serval" .Release.Name) (contains "serval" .Release.Name)) -}}
{{- /* A StatefulSet's pods have a label with its name and a hash, of 63 characters together. */ -}}
{{- if gt (len $name) 45 }}{{ printf "%s-%s" (trunc 36 $name | trimSuffix "-") (sha256sum $name | trunc 8) }}{{ else }}{{ $name }}{{ end }}
{{- end }}

{{- /* Labels that select pods; never change them, selectors are immutable. */}}
{{- define "serval.selector" -}}
app.kubernetes.io/name: serval
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Selector of every pod of the engines, further machines included. */}}
{{- define "serval.enginePods" -}}
matchLabels:
  {{- include "serval.selector" . | nindent 2 }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [engine, engine-worker]}
{{- end }}

{{- define "serval.labels" -}}
{{ include "serval.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Tensor-parallel size: the ranks of all machines. */}}
{{- define "serval.ranks" -}}
{{- mul (max 1 (int .Values.engine.gpus)) (int .Values.engine.nodes) }}
{{- end }}

{{- /* Kind and API of the engines' controller. */}}
{{- define "serval.engineController" -}}
{{- if gt (int .Values.engine.nodes) 1 }}leaderworkerset.x-k8s.io/v1 LeaderWorkerSet{{ else }}apps/v1 StatefulSet{{ end }}
{{- end }}

{{- /* The engines' controller in the cluster, as JSON. */}}
{{- define "serval.foundEngines" -}}
{{- $controller := splitList " " (include "serval.engineController" .) -}}
{{- lookup (first $controller) (last $controller) .Release.Namespace (printf "%s-engine" (include "serval.name" .)) | toJson }}
{{- end }}

{{- define "serval.engineReplicas" -}}
{{- if .Values.engine.autoscaling.enabled }}{{ include "serval.scaledReplicas" (include "serval.foundEngines" . | fromJson) }}
{{- else }}{{ .Values.replicas }}{{ end }}
{{- end }}

{{- define "serval.keysSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-keys" (include "serval.name" .)) }}
{{- end }}

{{- define "serval.engineKeySecret" -}}
{{- .Values.engine.keySecret | default (printf "%s-engine-key" (include "serval.name" .)) }}
{{- end }}
