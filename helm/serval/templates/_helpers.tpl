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
{{- end }}

{{- define "serval.image" -}}
{{- $image := index .root.Values.image .which -}}
{{ $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "serval.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
# Otherwise the kubelet changes the owner of every file of the checkpoint at each start.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "serval.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Tensor-parallel size: the ranks of all machines. */}}
{{- define "serval.ranks" -}}
{{- mul (max 1 (int .Values.engine.gpus)) (int .Values.engine.nodes) }}
{{- end }}

{{- /* Share of one gateway among the most that may run, rounded down. */}}
{{- define "serval.gatewayShare" -}}
{{- $each := .Values.gateway.replicas }}
{{- if .Values.gateway.autoscaling.enabled }}{{ $each = max $each .Values.gateway.autoscaling.maxReplicas }}{{ end }}
{{- printf "%.4f" (floor (divf 10000 (mul .Values.replicas $each)) | mulf 0.0001) }}
{{- end }}

{{- define "serval.modelFolder" -}}
{{- if eq .Values.model.source "demo" }}/opt/serval/demo-model{{ else }}{{ printf "/models/%s" .Values.model.path | trimSuffix "/" }}{{ end }}
{{- end }}

{{- define "serval.modelVolume" -}}
{{- $model := .Values.model -}}
{{- if eq $model.source "pvc" }}
- name: model
  persistentVolumeClaim: {claimName: {{ required "model.source is pvc: set model.pvc.claimName" $model.pvc.claimName }}}
{{- else if eq $model.source "hostPath" }}
- name: model
  hostPath: {path: {{ required "model.source is hostPath: set model.hostPath.path" $model.hostPath.path }}, type: Directory}
{{- else if eq $model.source "image" }}
- name: model
  image: {reference: {{ required "model.source is image: set model.image.reference" $model.image.reference }}, pullPolicy: IfNotPresent}
{{- end }}
{{- end }}

{{- define "serval.modelMount" -}}
{{- if ne .Values.model.source "demo" }}
- {name: model, mountPath: /models, readOnly: true}
{{- end }}
{{- end }}

{{- /* Volume of compiled kernels. A claim is the StatefulSet's, which gives each pod its own. */}}
{{- define "serval.cacheVolume" -}}
{{- $cache := .Values.engine.cache -}}
{{- if eq $cache.kind "hostPath" }}
- name: cache
  # Kubernetes would create a missing folder as root's.
  hostPath: {path: {{ required "engine.cache.kind is hostPath: set engine.cache.hostPath.path" $cache.hostPath.path }}, type: Directory}
{{- else if eq $cache.kind "emptyDir" }}
- name: cache
  emptyDir: {sizeLimit: {{ $cache.size }}}
{{- end }}
{{- end }}

{{- define "serval.keysSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-keys" (include "serval.name" .)) }}
{{- end }}

{{- define "serval.engineKeySecret" -}}
{{- .Values.engine.keySecret | default (printf "%s-engine-key" (include "serval.name" .)) }}
{{- end }}

{{- /* The key that an engine asks for, and its gateways send. */}}
{{- define "serval.engineKey" -}}
- {name: SERVAL_ENGINE_API_KEY, valueFrom: {secretKeyRef: {name: {{ include "serval.engineKeySecret" . }}, key: key}}}
{{- end }}

{{- /* Mistakes that the schema cannot see. */}}
{{- define "serval.validate" -}}
{{- $ways := 0 }}
{{- if .Values.auth.existingSecret }}{{ $ways = add1 $ways }}{{ end }}
{{- if .Values.auth.externalSecret.enabled }}{{ $ways = add1 $ways }}{{ end }}
{{- if .Values.auth.keys }}{{ $ways = add1 $ways }}{{ end }}
{{- if ne (int $ways) 1 }}
{{- fail "API keys: set exactly one of auth.existingSecret, auth.externalSecret.enabled and auth.keys" }}
{{- end }}
{{- $ranks := int (include "serval.ranks" .) }}
{{- if ne 0 (mod $ranks (int .Values.engine.ep)) }}
{{- fail (printf "engine.ep (%d) must divide the number of ranks, engine.gpus times engine.nodes (%d)" (int .Values.engine.ep) $ranks) }}
{{- end }}
{{- if not (has $ranks (list 1 2 4 8 16)) }}
{{- fail (printf "engine.gpus times engine.nodes is %d; the model splits over 1, 2, 4, 8 or 16 ranks" $ranks) }}
{{- end }}
{{- if and (gt (int .Values.engine.nodes) 1) (eq 0 (int .Values.engine.gpus)) }}
{{- fail "engine.nodes: an engine on CPUs runs on one machine; set it to 1, or engine.gpus" }}
{{- end }}
{{- if and (gt (int .Values.engine.nodes) 1) (eq .Values.engine.cache.kind "claim") }}
{{- fail "engine.nodes above 1: a LeaderWorkerSet makes no claims; set engine.cache.kind to hostPath or emptyDir" }}
{{- end }}
{{- if and (gt (int .Values.engine.nodes) 1) (eq .Values.model.source "hostPath") (not .Values.gateway.affinity) }}
{{- fail "model.source is hostPath and engine.nodes above 1: gateways need a machine that has the folder; set gateway.affinity" }}
{{- end }}
{{- with .Values.gateway.autoscaling }}
{{- if and .keda.enabled (not .enabled) }}
{{- fail "gateway.autoscaling.keda: set gateway.autoscaling.enabled too" }}
{{- end }}
{{- if and .keda.enabled (not .keda.prometheusUrl) }}
{{- fail "gateway.autoscaling.keda: set prometheusUrl" }}
{{- end }}
{{- if and .keda.enabled (eq 0 (int .targetInFlight)) }}
{{- fail "gateway.autoscaling.keda: set gateway.autoscaling.targetInFlight, the requests in flight a pod shall have" }}
{{- end }}
{{- end }}
{{- if and .Values.gateway.autoscaling.enabled (lt (int .Values.gateway.autoscaling.maxReplicas) (int .Values.gateway.replicas)) }}
{{- fail (printf "gateway.autoscaling.maxReplicas (%v) is below gateway.replicas (%v), the fewest pods" .Values.gateway.autoscaling.maxReplicas .Values.gateway.replicas) }}
{{- end }}
{{- if and (eq .Values.model.source "pvc") .Values.model.pvc.claimName (not .Values.model.pvc.singleNode) }}
{{- with lookup "v1" "PersistentVolumeClaim" .Release.Namespace .Values.model.pvc.claimName }}
{{- if not (or (has "ReadOnlyMany" .spec.accessModes) (has "ReadWriteMany" .spec.accessModes)) }}
{{- fail (printf "model.pvc.claimName: %s can be mounted on one machine only (%s); set model.pvc.singleNode" .metadata.name (join ", " .spec.accessModes)) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.model.pvc.singleNode (gt (mul .Values.replicas .Values.engine.nodes) 1) (not .Values.engine.affinity) }}
{{- fail "model.pvc.singleNode: all engines have to run on one machine; set engine.affinity, or replicas and engine.nodes to 1" }}
{{- end }}
{{- if and .Values.model.download.enabled (ne .Values.model.source "pvc") }}
{{- fail (printf "model.download needs a volume it can write: set model.source to pvc, not %s" .Values.model.source) }}
{{- end }}
{{- if and .Values.model.verify.enabled (eq .Values.model.source "demo") }}
{{- fail "model.verify: the demo model is part of the image; set model.source to your checkpoint's" }}
{{- end }}
{{- if and (ne .Values.model.source "demo") (not .Values.model.path) (ne .Values.model.source "image") }}
{{- fail "model.path: name the checkpoint's folder inside the volume" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
{{- fail "ingress.enabled: set ingress.host" }}
{{- end }}
{{- end }}
