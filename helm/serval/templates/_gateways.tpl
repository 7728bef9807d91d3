{{- /* Most engines there may be. */}}
{{- define "serval.mostEngines" -}}
{{- if .Values.engine.autoscaling.enabled }}{{ .Values.engine.autoscaling.maxReplicas }}{{ else }}{{ .Values.replicas }}{{ end }}
{{- end }}

{{- /* Address of all engines. A name in the range that does not exist is no engine. */}}
{{- define "serval.engineUrl" -}}
{{- $engine := printf "%s-engine" (include "serval.name" .) -}}
{{- $most := int (include "serval.mostEngines" .) -}}
http://{{ $engine }}-{{ if eq 1 $most }}0{{ else }}{0..{{ sub $most 1 }}}{{ end }}.{{ $engine }}:30000
{{- end }}

{{- /*
Groups of gateways, each a Deployment, as JSON. Fields: name; labels, which select its pods beside those of all gateways; url of its
engines; found: the Deployment in the cluster, empty without one; leaving: true if it stays only until the gateways of the other
layout, which `gateway.perEngine` asks for now, are ready.
*/}}
{{- define "serval.gatewayGroups" -}}
{{- $name := printf "%s-gateway" (include "serval.name" .) -}}
{{- $engine := printf "%s-engine" (include "serval.name" .) -}}
{{- $shared := list (dict "name" $name "labels" (dict "serval/gateway" "shared") "url" (include "serval.engineUrl" .)) -}}
{{- $each := list -}}
{{- range $i := until (int .Values.replicas) -}}
{{- $each = append $each (dict "name" (printf "%s-%d" $name $i) "labels" (dict "serval/engine" (toString $i)) "url" (printf "http://%s-%d.%s:30000" $engine $i $engine)) -}}
{{- end -}}
{{- $wanted := ternary $each $shared .Values.gateway.perEngine -}}
{{- $ready := true -}}
{{- $groups := list -}}
{{- range $group := $wanted -}}
{{- $found := lookup "apps/v1" "Deployment" $.Release.Namespace $group.name -}}
{{- if lt (int (dig "status" "availableReplicas" 0 $found)) (int $.Values.gateway.replicas) }}{{ $ready = false }}{{ end -}}
{{- $groups = append $groups (merge $group (dict "found" $found "leaving" false)) -}}
{{- end -}}
{{- if not $ready -}}
{{- range $group := ternary $shared $each .Values.gateway.perEngine -}}
{{- with lookup "apps/v1" "Deployment" $.Release.Namespace $group.name -}}
{{- $groups = append $groups (merge $group (dict "found" . "leaving" true)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ toJson $groups }}
{{- end }}

{{- /* Share of one gateway among the most that may run, rounded down. */}}
{{- define "serval.gatewayShare" -}}
{{- $each := .Values.gateway.replicas }}
{{- if .Values.gateway.autoscaling.enabled }}{{ $each = max $each .Values.gateway.autoscaling.maxReplicas }}{{ end }}
{{- $groups := ternary (int .Values.replicas) 1 .Values.gateway.perEngine }}
{{- printf "%.4f" (floor (divf 10000 (mul $groups $each)) | mulf 0.0001) }}
{{- end }}
