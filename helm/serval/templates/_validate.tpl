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
{{- if and (gt (int .Values.engine.nodes) 1) (eq .Values.model.source "hostPath") (eq .Values.gateway.tokenizer.source "checkpoint") (not .Values.gateway.affinity) }}
{{- fail "model.source is hostPath and engine.nodes above 1: gateways need a machine that has the folder; set gateway.affinity or gateway.tokenizer" }}
{{- end }}
{{- $machines := mul (include "serval.mostEngines" .) .Values.engine.nodes }}
{{- include "serval.validateClaim" . }}
{{- include "serval.validateTokenizer" . }}
{{- include "serval.validateScaling" . }}
{{- if and .Values.model.pvc.singleNode (gt $machines 1) (not .Values.engine.affinity) }}
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
{{- if and .Values.engine.hostNetwork (gt $machines 1) (not .Values.engine.affinity) (not .Values.engine.topologySpreadConstraints) }}
{{- fail "engine.hostNetwork: two engines on one machine would listen on the same port; set engine.affinity or engine.topologySpreadConstraints so that each has a machine of its own" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
{{- fail "ingress.enabled: set ingress.host" }}
{{- end }}
{{- end }}

{{- /* Access modes of the checkpoint's claim, separated by commas: those it is made with, or those it has in the cluster. */}}
{{- define "serval.claimModes" -}}
{{- if .Values.model.pvc.create.enabled }}{{ join "," .Values.model.pvc.create.accessModes }}
{{- else if .Values.model.pvc.claimName }}
{{- with lookup "v1" "PersistentVolumeClaim" .Release.Namespace .Values.model.pvc.claimName }}{{ join "," .spec.accessModes }}{{ end }}
{{- end }}
{{- end }}

{{- define "serval.validateClaim" -}}
{{- $modes := splitList "," (include "serval.claimModes" .) -}}
{{- if and (eq .Values.model.source "pvc") (first $modes) (not (has "ReadOnlyMany" $modes)) (not (has "ReadWriteMany" $modes)) }}
{{- $claim := include "serval.claimName" . }}
{{- $engines := mul (include "serval.mostEngines" .) .Values.engine.nodes }}
{{- $gateways := eq .Values.gateway.tokenizer.source "checkpoint" }}
{{- if and (not (has "ReadWriteOnce" $modes)) (or $gateways (gt $engines 1)) }}
{{- fail (printf "model.pvc: only one pod can mount %s (%s); give gateways their tokenizer with gateway.tokenizer, and run one engine" $claim (join "," $modes)) }}
{{- end }}
{{- if and (not .Values.model.pvc.singleNode) (gt $engines 1) }}
{{- fail (printf "model.pvc: %s can be mounted on one machine only (%s), and there are %d engine pods; set model.pvc.singleNode and engine.affinity, or use a claim of many machines" $claim (join "," $modes) $engines) }}
{{- end }}
{{- if and (not .Values.model.pvc.singleNode) $gateways }}
{{- fail (printf "model.pvc: %s can be mounted on one machine only (%s); give gateways their tokenizer with gateway.tokenizer, or set model.pvc.singleNode to run them on the engine's machine" $claim (join "," $modes)) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* "true" if a gateway has to run on an engine's machine. */}}
{{- define "serval.tokenizerOnEngineMachine" -}}
{{- and (eq .Values.gateway.tokenizer.source "checkpoint") (or (eq .Values.model.source "hostPath") (and (eq .Values.model.source "pvc") .Values.model.pvc.singleNode)) }}
{{- end }}

{{- define "serval.validateTokenizer" -}}
{{- $tokenizer := .Values.gateway.tokenizer -}}
{{- if and (ne $tokenizer.source "checkpoint") (eq .Values.model.source "demo") }}
{{- fail "gateway.tokenizer.source: the demo model's tokenizer is in the gateway's image; set it to checkpoint" }}
{{- end }}
{{- if and (eq $tokenizer.source "download") (not .Values.model.download.revision) }}
{{- fail "gateway.tokenizer.source is download: set model.download.revision, the commit of the checkpoint that engines serve" }}
{{- end }}
{{- if and (eq $tokenizer.source "gatewayImage") (not (hasPrefix "/" $tokenizer.path)) }}
{{- fail "gateway.tokenizer.source is gatewayImage: set gateway.tokenizer.path to the folder in your image, from the root" }}
{{- end }}
{{- if and (ne $tokenizer.source "gatewayImage") (hasPrefix "/" $tokenizer.path) }}
{{- fail "gateway.tokenizer.path: a folder below the volume's root" }}
{{- end }}
{{- end }}

{{- define "serval.validateScaling" -}}
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
{{- with .Values.engine.autoscaling }}
{{- if and .enabled (not .prometheusUrl) }}
{{- fail "engine.autoscaling.enabled: set engine.autoscaling.prometheusUrl" }}
{{- end }}
{{- if and .enabled (lt (int .maxReplicas) (int $.Values.replicas)) }}
{{- fail (printf "engine.autoscaling.maxReplicas (%v) is below replicas (%v), the fewest engines" .maxReplicas $.Values.replicas) }}
{{- end }}
{{- if and .enabled $.Values.gateway.perEngine }}
{{- fail "engine.autoscaling.enabled: gateways of each engine cannot follow; set gateway.perEngine to false" }}
{{- end }}
{{- end }}
{{- if not .Values.gateway.autoscaling.enabled }}
{{- range $group := include "serval.gatewayGroups" . | fromJsonArray }}
{{- if not $group.leaving }}
{{- include "serval.validateTurnedOff" (dict "root" $ "object" $group.found "number" $.Values.gateway.replicas "off" "gateway.autoscaling.enabled" "set" "gateway.replicas") }}
{{- end }}
{{- end }}
{{- end }}
{{- if not .Values.engine.autoscaling.enabled }}
{{- include "serval.validateTurnedOff" (dict "root" . "object" (include "serval.foundEngines" . | fromJson) "number" .Values.replicas "off" "engine.autoscaling.enabled" "set" "replicas") }}
{{- end }}
{{- end }}
