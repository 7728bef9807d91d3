{{- /* Pod of an engine, or of one machine of it. Parameters: root, and leader (true if it answers requests). */}}
{{- define "serval.enginePod" -}}
{{- $leader := .leader -}}
{{- $root := .root -}}
{{- with .root -}}
{{- include "serval.podFields" (dict "root" . "pod" .Values.engine) }}
# After SIGTERM the engine is not ready, so gateways send it nothing more; it ends after its last request.
terminationGracePeriodSeconds: {{ add .Values.engine.drainSeconds 30 }}
{{- if .Values.engine.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- with .Values.engine.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.engine.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.engine.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toYaml . | nindent 4 }}
    {{- if not .labelSelector }}
    labelSelector: {{ include "serval.enginePods" $root | nindent 6 }}
    {{- end }}
  {{- end }}
{{- end }}
{{- if or .Values.engine.initContainers .Values.model.download.enabled .Values.model.verify.enabled }}
initContainers:
  {{- with .Values.engine.initContainers }}{{ toYaml . | nindent 2 }}{{ end }}
  {{- if .Values.model.download.enabled }}
  - name: download
    image: {{ include "serval.image" (dict "root" . "which" "engine") }}
    imagePullPolicy: {{ .Values.image.engine.pullPolicy }}
    # Complete files are not fetched again; engines that start together wait for one another.
    command: [flock, /models/.download.lock, python, -m, huggingface_hub.cli.hf, download]
    args:
      - {{ .Values.model.download.repository }}
      - --revision={{ .Values.model.download.revision }}
      - --local-dir={{ include "serval.modelFolder" . }}
    env:
      - {name: HOME, value: /var/cache/serval}
      {{- include "serval.downloadVariables" . | nindent 6 }}
    {{- with .Values.model.download.envFrom }}
    envFrom: {{ toYaml . | nindent 6 }}
    {{- end }}
    resources: {requests: {cpu: "1", memory: 2Gi}, limits: {memory: 8Gi}}
    securityContext: {{ include "serval.helperSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: model, mountPath: /models}
      - {name: cache, mountPath: /var/cache/serval}
      - {name: tmp, mountPath: /tmp}
  {{- end }}
  {{- if .Values.model.verify.enabled }}
  - name: verify
    image: {{ include "serval.image" (dict "root" . "which" "engine") }}
    imagePullPolicy: {{ .Values.image.engine.pullPolicy }}
    args:
      - checkpoint
      - verify-hash
      {{- if .Values.model.verify.allowRemoteCode }}
      - --allow=remote-code
      {{- end }}
      - --manifest=/etc/serval/manifest/SHA256SUMS
      - {{ include "serval.modelFolder" . }}
    resources: {requests: {cpu: "2", memory: 1Gi}, limits: {memory: 4Gi}}
    securityContext: {{ include "serval.helperSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: manifest, mountPath: /etc/serval/manifest, readOnly: true}
      - {name: tmp, mountPath: /tmp}
      {{- include "serval.modelMount" . | nindent 6 }}
  {{- end }}
{{- end }}
containers:
  - name: engine
    image: {{ include "serval.image" (dict "root" . "which" "engine") }}
    imagePullPolicy: {{ .Values.image.engine.pullPolicy }}
    args:
      - engine
      - --model={{ include "serval.modelFolder" . }}
      - --served-model-name={{ .Values.model.servedName }}
      - --host=0.0.0.0
      - --port=30000
      - --device={{ if .Values.engine.gpus }}cuda{{ else }}cpu{{ end }}
      - --tp={{ include "serval.ranks" . }}
      - --ep={{ .Values.engine.ep }}
      - --
      {{- if gt (int .Values.engine.nodes) 1 }}
      # Variables of LeaderWorkerSet; the first machine answers requests.
      - --nnodes=$(LWS_GROUP_SIZE)
      - --node-rank=$(LWS_WORKER_INDEX)
      - --dist-init-addr=$(LWS_LEADER_ADDRESS):20000
      {{- end }}
      {{- with .Values.engine.contextLength }}
      - --context-length={{ int . }}
      {{- end }}
      {{- with .Values.engine.chunkedPrefillSize }}
      - --chunked-prefill-size={{ int . }}
      {{- end }}
      {{- range .Values.engine.flags }}
      - {{ . | quote }}
      {{- end }}
    env:
      # Compiled kernels are below it; the root file system may be read-only.
      - {name: HOME, value: /var/cache/serval}
      # Python asks for the user's name, which a user id that the cluster chooses (OpenShift) has not.
      - {name: USER, value: serval}
      {{- include "serval.engineKey" . | nindent 6 }}
      {{- with .Values.engine.env }}{{ toYaml . | nindent 6 }}{{ end }}
    {{- with .Values.engine.envFrom }}
    envFrom: {{ toYaml . | nindent 6 }}
    {{- end }}
    ports:
      - {name: http, containerPort: 30000}
    {{- if $leader }}
    # /ready generates nothing; /health generates a token, which takes at least a second: too slow for a probe.
    startupProbe:
      httpGet: {path: /ready, port: http}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: {{ max 1 (div .Values.engine.startupSeconds 10) }}
    readinessProbe:
      httpGet: {path: /ready, port: http}
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: 2
    livenessProbe:
      # Any answer over HTTP counts, even a 401 for want of a key. SGLang's own watchdog ends a hanging batch, however long
      # the queue is.
      exec:
        command:
          - python
          - -c
          - |
            import urllib.error, urllib.request
            try:
                urllib.request.urlopen("http://127.0.0.1:30000/model_info", timeout=9)
            except urllib.error.HTTPError:
                pass
      periodSeconds: 30
      timeoutSeconds: 10
      failureThreshold: 4
    {{- else }}
    # Ranks of further machines end with those of the first. Once they are up, SGLang answers there, always with 200.
    startupProbe:
      httpGet: {path: /health, port: http}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: {{ max 1 (div .Values.engine.startupSeconds 10) }}
    readinessProbe:
      httpGet: {path: /health, port: http}
      periodSeconds: 10
      timeoutSeconds: 5
    {{- end }}
    resources:
      requests: {{ toYaml .Values.engine.resources.requests | nindent 8 }}
      limits:
        {{- toYaml .Values.engine.resources.limits | nindent 8 }}
        {{- if .Values.engine.gpus }}
        {{ .Values.engine.gpuResource }}: {{ .Values.engine.gpus }}
        {{- end }}
    securityContext: {{ toYaml (merge (dict "readOnlyRootFilesystem" .Values.engine.readOnlyRootFilesystem) .Values.engine.securityContext) | nindent 6 }}
    volumeMounts:
      - {name: shm, mountPath: /dev/shm}
      - {name: cache, mountPath: /var/cache/serval}
      - {name: tmp, mountPath: /tmp}
      {{- include "serval.modelMount" . | nindent 6 }}
      {{- with .Values.engine.volumeMounts }}{{ toYaml . | nindent 6 }}{{ end }}
  {{- with .Values.engine.sidecars }}{{ toYaml . | nindent 2 }}{{ end }}
volumes:
  # Shared memory of the ranks; the default of 64 MB is too small for more than one. Counts as memory.
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: {{ .Values.engine.sharedMemory }}}
  {{- include "serval.cacheVolume" . | nindent 2 }}
  - name: tmp
    emptyDir: {sizeLimit: 8Gi}
  {{- if .Values.model.verify.enabled }}
  - name: manifest
    configMap: {name: {{ required "model.verify.enabled: set model.verify.manifestConfigMap" .Values.model.verify.manifestConfigMap }}}
  {{- end }}
  {{- include "serval.modelVolume" . | nindent 2 }}
  {{- with .Values.engine.volumes }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
{{- end }}
