{{- /* Groups of a file of deploy/prometheus/rules, narrowed to this release, with its values. Parameters: root, path. */}}
{{- define "serval.ruleGroups" -}}
{{- $root := .root -}}
{{- $values := $root.Values.monitoring.prometheusRule -}}
{{- /* Values of an earlier chart, kept by --reuse-values, lack some. */ -}}
{{- $thresholds := $values.thresholds | default dict -}}
{{- $severities := $values.severities | default dict -}}
{{- $first := $values.firstTokenSeconds | default "2.5" -}}
{{- $text := $root.Files.Get .path -}}
{{- $namespace := printf "namespace=\"%s\"" $root.Release.Namespace -}}
{{- $release := printf "%s,release=\"%s\"" $namespace $root.Release.Name -}}
{{- $text = regexReplaceAll "job=\"(serval-[a-z]+)\"" $text (printf "job=\"${1}\",%s" $release) -}}
{{- $text = regexReplaceAll "scalar\\(([a-z_:]+)\\)" $text (printf "scalar(${1}{%s})" $release) -}}
{{- $text = replace "namespace=~\".*\"" $namespace $text -}}
{{- $text = replace "le=\"2.5\"" (printf "le=\"%s\"" $first) $text -}}
{{- $text = replace "longer than 2.5 s" (printf "longer than %s s" $first) $text -}}
{{- with $values.runbookBaseUrl -}}
{{- $text = replace "runbook: deploy/runbooks/" (printf "runbook_url: %s/" (trimSuffix "/" .)) $text -}}
{{- end -}}
{{- $groups := list -}}
{{- range $group := ($text | fromYaml).groups -}}
{{- $rules := list -}}
{{- range $rule := $group.rules -}}
{{- if hasPrefix "vector(" $rule.expr -}}
{{- /* A threshold, or the watchdog. */ -}}
{{- $_ := set $rule "labels" (merge (dict "namespace" $root.Release.Namespace "release" $root.Release.Name) ($rule.labels | default dict)) -}}
{{- with $rule.record -}}
{{- $name := splitList ":" . | last -}}
{{- if hasKey $thresholds $name -}}
{{- $_ := set $rule "expr" (printf "vector(%v)" (index $thresholds $name)) -}}
{{- end -}}
{{- if eq $name "first_token_seconds" -}}
{{- $_ := set $rule "expr" (printf "vector(%s)" $first) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq "35m" ($rule.for | default "") -}}
{{- $_ := set $rule "for" (printf "%ds" (add $root.Values.engine.startupSeconds 300)) -}}
{{- end -}}
{{- $_ := set $rule "expr" (replace "offset 35m" (printf "offset %ds" (add $root.Values.engine.startupSeconds 300)) $rule.expr) -}}
{{- with $rule.alert -}}
{{- if hasKey $severities . -}}
{{- $_ := set $rule.labels "severity" (index $severities .) -}}
{{- end -}}
{{- end -}}
{{- if not (has $rule.alert ($values.disabled | default list)) -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- end -}}
{{- if or (ne (toString $values.platform) "false") (ne $group.name "serval-platform") -}}
{{- $groups = append $groups (dict "name" $group.name "rules" $rules) -}}
{{- end -}}
{{- end -}}
{{ toYaml $groups }}
{{- end }}
