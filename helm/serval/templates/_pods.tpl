{{- /* Labels of pods. The chart's version is not among them, because a change of it would restart engines. */}}
{{- define "serval.podLabels" -}}
{{ include "serval.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "serval.image" -}}
{{- $image := index .root.Values.image .which -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* Security context of a container of the chart's own beside the engine's. */}}
{{- define "serval.helperSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end }}

{{- /* Fields of a pod that values give as they are. Parameters: root, and pod, the values of gateway or engine. */}}
{{- define "serval.podFields" -}}
automountServiceAccountToken: false
{{- with .pod.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
# A Service called serval would set SERVAL_PORT, which is a setting of the gateway.
enableServiceLinks: false
securityContext: {{ toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with .pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .pod.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .pod.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The key that an engine asks for, and its gateways send. */}}
{{- define "serval.engineKey" -}}
- {name: SERVAL_ENGINE_API_KEY, valueFrom: {secretKeyRef: {name: {{ include "serval.engineKeySecret" . }}, key: key}}}
{{- end }}
