{{- /*
Number of pods to render for a Deployment or StatefulSet that an autoscaler scales; nothing where it is the autoscaler's alone.
Without the number that Helm set before, Kubernetes would go back to 1; with another one than the autoscaler's, server-side apply
would find a conflict, in a rollback too. Parameter: the object in the cluster, empty without one.
*/}}
{{- define "serval.scaledReplicas" -}}
{{- if . -}}
{{- $applied := false -}}
{{- $others := false -}}
{{- range .metadata.managedFields -}}
{{- if and (eq .manager "helm") (eq .operation "Apply") }}{{ $applied = true }}{{ end -}}
{{- if and (ne .manager "helm") (hasKey (dig "fieldsV1" "f:spec" dict .) "f:replicas") }}{{ $others = true }}{{ end -}}
{{- end -}}
{{- if not (and $applied $others) }}{{ .spec.replicas }}{{ end -}}
{{- end -}}
{{- end }}

{{- /*
Fails if autoscaling is turned off while there are other pods than the values ask for: some would go. Parameters: root; object, in the
cluster; number, of the values; off and set, the values to name.
*/}}
{{- define "serval.validateTurnedOff" -}}
{{- if .object -}}
{{- $name := .object.metadata.name -}}
{{- $scaled := false -}}
{{- range list $name (printf "keda-hpa-%s" $name) -}}
{{- if lookup "autoscaling/v2" "HorizontalPodAutoscaler" $.root.Release.Namespace . }}{{ $scaled = true }}{{ end -}}
{{- end -}}
{{- if and $scaled (ne (int .object.spec.replicas) (int .number)) -}}
{{- fail (printf "%s: turned off while %s has %v pods; set %s (now %v) to that number, and change it later" .off $name .object.spec.replicas .set .number) -}}
{{- end -}}
{{- end -}}
{{- end }}
