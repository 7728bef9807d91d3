{{- /* Folder of the checkpoint in the engine's pod. */}}
{{- define "serval.modelFolder" -}}
{{- if eq .Values.model.source "demo" }}/opt/serval/demo-model{{ else }}{{ printf "/models/%s" .Values.model.path | trimSuffix "/" }}{{ end }}
{{- end }}

{{- define "serval.claimName" -}}
{{- $claim := .Values.model.pvc -}}
{{- if $claim.create.enabled }}{{ $claim.claimName | default (printf "%s-model" (include "serval.name" .)) }}
{{- else }}{{ required "model.source is pvc: set model.pvc.claimName, or model.pvc.create.enabled" $claim.claimName }}{{ end }}
{{- end }}

{{- define "serval.modelVolume" -}}
{{- $model := .Values.model -}}
{{- if eq $model.source "pvc" }}
- name: model
  persistentVolumeClaim: {claimName: {{ include "serval.claimName" . }}}
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

{{- /* Folder of tokenizer and chat template in a gateway's pod. */}}
{{- define "serval.tokenizerFolder" -}}
{{- $tokenizer := .Values.gateway.tokenizer -}}
{{- if eq $tokenizer.source "checkpoint" }}{{ include "serval.modelFolder" . }}
{{- else if eq $tokenizer.source "gatewayImage" }}{{ $tokenizer.path }}
{{- else }}{{ printf "/tokenizer/%s" $tokenizer.path | trimSuffix "/" }}{{ end }}
{{- end }}

{{- define "serval.tokenizerVolume" -}}
{{- $tokenizer := .Values.gateway.tokenizer -}}
{{- if eq $tokenizer.source "checkpoint" }}
{{- include "serval.modelVolume" . }}
{{- else if eq $tokenizer.source "pvc" }}
- name: tokenizer
  persistentVolumeClaim: {claimName: {{ required "gateway.tokenizer.source is pvc: set gateway.tokenizer.pvc.claimName" $tokenizer.pvc.claimName }}, readOnly: true}
{{- else if eq $tokenizer.source "image" }}
- name: tokenizer
  image: {reference: {{ required "gateway.tokenizer.source is image: set gateway.tokenizer.image.reference" $tokenizer.image.reference }}, pullPolicy: IfNotPresent}
{{- else if eq $tokenizer.source "download" }}
- name: tokenizer
  emptyDir: {sizeLimit: 256Mi}
{{- end }}
{{- end }}

{{- define "serval.tokenizerMount" -}}
{{- $source := .Values.gateway.tokenizer.source -}}
{{- if eq $source "checkpoint" }}
{{- include "serval.modelMount" . }}
{{- else if ne $source "gatewayImage" }}
- {name: tokenizer, mountPath: /tokenizer, readOnly: true}
{{- end }}
{{- end }}

{{- /* Variables of what downloads from the Hub. */}}
{{- define "serval.downloadVariables" -}}
{{- with .Values.model.download -}}
{{- with .tokenSecret }}
- {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}}
{{- end }}
{{- with .env }}{{ toYaml . | nindent 0 }}{{ end }}
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
