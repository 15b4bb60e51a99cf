{{- define "esh3ar.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Names of objects begin with it. What is appended, and Kubernetes' own hashes, must fit into 63 characters. */}}
{{- define "esh3ar.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "esh3ar.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "esh3ar.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "esh3ar.selector" -}}
app.kubernetes.io/name: {{ include "esh3ar.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "esh3ar.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "esh3ar.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "esh3ar.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "esh3ar.secretName" -}}
{{ .Values.secrets.existingSecret | default (printf "%s-secrets" (include "esh3ar.fullname" .)) }}
{{- end -}}

{{- define "esh3ar.tlsSecretName" -}}
{{ .Values.tls.existingSecret | default (printf "%s-cluster-tls" (include "esh3ar.fullname" .)) }}
{{- end -}}

{{/* The address of a core node: a name within the namespace, the same wherever the pod runs. Takes (list $ host). */}}
{{- define "esh3ar.coreHost" -}}
{{- $ := index . 0 -}}
{{ index . 1 }}.{{ include "esh3ar.fullname" $ }}-core.{{ $.Release.Namespace }}.svc
{{- end -}}

{{- define "esh3ar.routes" -}}
{{- $routes := list -}}
{{- range $i := until (int .Values.core.replicas) -}}
{{- $routes = append $routes (printf "%s:6222" (include "esh3ar.coreHost" (list $ (printf "%s-core-%d" (include "esh3ar.fullname" $) $i)))) -}}
{{- end -}}
{{- toJson $routes -}}
{{- end -}}

{{- define "esh3ar.natsURLs" -}}
{{- if .Values.externalNATS -}}
{{- toJson .Values.externalNATS -}}
{{- else -}}
{{- $urls := list -}}
{{- $scheme := ternary "tls" "nats" .Values.tls.enabled -}}
{{- range $i := until (int .Values.core.replicas) -}}
{{- $urls = append $urls (printf "%s://%s:4222" $scheme (include "esh3ar.coreHost" (list $ (printf "%s-core-%d" (include "esh3ar.fullname" $) $i)))) -}}
{{- end -}}
{{- toJson $urls -}}
{{- end -}}
{{- end -}}

{{/* Whether anybody but the core connects to NATS. */}}
{{- define "esh3ar.hasClients" -}}
{{- if or .Values.elastic.enabled .Values.autoscaler.enabled -}}true{{- end -}}
{{- end -}}

{{/* The configuration file of a node. Takes (list $ "core"|"elastic"). */}}
{{- define "esh3ar.config" -}}
{{- $ := index . 0 -}}
{{- $own := dict
      "listen" "0.0.0.0:8080"
      "data" "/var/lib/esh3ar"
      "cluster-name" (printf "%s.%s" $.Release.Namespace (include "esh3ar.fullname" $))
      "drain-delay" (printf "%ds" (int $.Values.drain.delaySeconds))
      "drain-timeout" (printf "%ds" (int $.Values.drain.timeoutSeconds)) -}}
{{- if eq (index . 1) "core" -}}
{{- $_ := set $own "cluster-listen" "0.0.0.0:6222" -}}
{{- $_ := set $own "routes" (include "esh3ar.routes" $ | fromJsonArray) -}}
{{- if include "esh3ar.hasClients" $ -}}
{{- $_ := set $own "client-listen" "0.0.0.0:4222" -}}
{{- end -}}
{{- else -}}
{{- $_ := set $own "nats-url" (include "esh3ar.natsURLs" $ | fromJsonArray) -}}
{{- end -}}
{{- if $.Values.tls.enabled -}}
{{- $_ := set $own "cluster-cert" "/etc/esh3ar/tls/tls.crt" -}}
{{- $_ := set $own "cluster-key" "/etc/esh3ar/tls/tls.key" -}}
{{- $_ := set $own "cluster-ca" "/etc/esh3ar/tls/ca.crt" -}}
{{- end -}}
{{- $reserved := concat (keys $own) (list "store" "bootstrap-key" "admin-key" "jwt-secret" "cluster-secret" "node-name" "advertise" "cluster-advertise" "device-url" "cluster-listen" "client-listen" "routes" "nats-url" "cluster-cert" "cluster-key" "cluster-ca" "tls-cert" "tls-key") -}}
{{- range $name := keys $.Values.options -}}
{{- if has $name $reserved -}}
{{- fail (printf "options.%s: the chart sets it by itself" $name) -}}
{{- end -}}
{{- end -}}
{{- toYaml (merge $own $.Values.options) -}}
{{- end -}}

{{/* The secrets of a node, as its environment. */}}
{{- define "esh3ar.secretEnv" -}}
{{- range list "bootstrap-key" "admin-key" "jwt-secret" "cluster-secret" }}
- name: ESH3AR_{{ . | upper | replace "-" "_" }}
  valueFrom: {secretKeyRef: {name: {{ include "esh3ar.secretName" $ }}, key: {{ . }}}}
{{- end }}
- name: ESH3AR_STORE
  valueFrom: {secretKeyRef: {name: {{ .Values.store.existingSecret | default (printf "%s-store" (include "esh3ar.fullname" .)) }}, key: {{ .Values.store.key }}}}
{{- end -}}

{{/* How long a pod may take to stop. */}}
{{- define "esh3ar.gracePeriod" -}}
{{- add (int .Values.drain.delaySeconds) (div (mul (int .Values.drain.timeoutSeconds) 3) 2) 15 -}}
{{- end -}}

{{- define "esh3ar.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "esh3ar.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where a pod may run. Takes (list $ component values). */}}
{{- define "esh3ar.scheduling" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index . 2 -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "esh3ar.selector" $ | nindent 8 }}
        app.kubernetes.io/component: {{ $component }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: {{ $values.machineSpread | default "ScheduleAnyway" }}
    labelSelector:
      matchLabels:
        {{- include "esh3ar.selector" $ | nindent 8 }}
        app.kubernetes.io/component: {{ $component }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* The container of a node. Takes (list $ component values). */}}
{{- define "esh3ar.node" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $values := index . 2 -}}
- name: esh3ar
  image: {{ include "esh3ar.image" $ }}
  imagePullPolicy: {{ $.Values.image.pullPolicy }}
  args:
    - serve
    - --config=/etc/esh3ar/{{ $component }}.yaml
    {{- range $values.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  env:
    - name: POD_NAME
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    - name: ESH3AR_NODE_NAME
      value: $(POD_NAME)
    {{- if eq $component "core" }}
    - name: ESH3AR_ADVERTISE
      value: http://{{ include "esh3ar.coreHost" (list $ "$(POD_NAME)") }}:8080
    # A name and not the pod's address: it stays the same, and certificates are made for it.
    - name: ESH3AR_CLUSTER_ADVERTISE
      value: {{ include "esh3ar.coreHost" (list $ "$(POD_NAME)") }}:6222
    {{- else }}
    - name: POD_IP
      valueFrom: {fieldRef: {fieldPath: status.podIP}}
    - name: ESH3AR_ADVERTISE
      value: http://$(POD_IP):8080
    {{- end }}
    {{- with $values.deviceURL }}
    - name: ESH3AR_DEVICE_URL
      value: {{ . | quote }}
    {{- end }}
    {{- include "esh3ar.secretEnv" $ | nindent 4 }}
    {{- with $values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - {name: http, containerPort: 8080}
    {{- if eq $component "core" }}
    - {name: routes, containerPort: 6222}
    {{- if include "esh3ar.hasClients" $ }}
    - {name: nats, containerPort: 4222}
    {{- end }}
    {{- end }}
  # Nothing answers until the journal has a majority. The other two begin after it.
  startupProbe:
    httpGet: {path: /healthz, port: http}
    periodSeconds: 2
    timeoutSeconds: 2
    failureThreshold: {{ div (int $values.startupSeconds) 2 }}
  # Degraded is ready: such a node keeps its promises.
  readinessProbe:
    httpGet: {path: /readyz, port: http}
    periodSeconds: 3
    timeoutSeconds: 3
    failureThreshold: 2
  # It says yes also when the node is cut off from the majority or the database: no restart would bring these back.
  # Two minutes, because a restart sends all devices of the node elsewhere, and one that has as many connections as it
  # may answers late.
  livenessProbe:
    httpGet: {path: /healthz, port: http}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 12
  resources: {{- toYaml $values.resources | nindent 4 }}
  securityContext: {{- include "esh3ar.containerSecurity" $ | nindent 4 }}
  volumeMounts:
    - {name: data, mountPath: /var/lib/esh3ar}
    - {name: config, mountPath: /etc/esh3ar, readOnly: true}
    {{- if $.Values.tls.enabled }}
    - {name: tls, mountPath: /etc/esh3ar/tls, readOnly: true}
    {{- end }}
{{- end -}}

{{/* The volumes of a node but for its data. Takes (list $ component). */}}
{{- define "esh3ar.nodeVolumes" -}}
{{- $ := index . 0 -}}
- name: config
  configMap:
    name: {{ include "esh3ar.fullname" $ }}-config
    items: [{key: {{ index . 1 }}.yaml, path: {{ index . 1 }}.yaml}]
{{- if $.Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "esh3ar.tlsSecretName" $ }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{/* What cannot be rendered. */}}
{{- define "esh3ar.check" -}}
{{- if not (or .Values.store.existingSecret .Values.store.url) -}}
{{- fail "store.existingSecret or store.url: nodes of a cluster share a PostgreSQL" -}}
{{- end -}}
{{- if and .Values.tls.enabled (not .Values.tls.existingSecret) (not .Values.tls.certManager.enabled) (not .Values.externalNATS) -}}
{{- fail "tls: give existingSecret, or enable certManager" -}}
{{- end -}}
{{- if and .Values.externalNATS (not .Values.elastic.enabled) -}}
{{- fail "externalNATS: all nodes are elastic then; enable elastic" -}}
{{- end -}}
{{- if and .Values.elastic.hpa.enabled .Values.autoscaler.enabled -}}
{{- fail "elastic.hpa and autoscaler: one of them alone can say how many nodes there are" -}}
{{- end -}}
{{- if and (or .Values.elastic.hpa.enabled .Values.autoscaler.enabled) (not .Values.elastic.enabled) -}}
{{- fail "elastic.enabled: there is nothing to scale without" -}}
{{- end -}}
{{- if and (or .Values.core.deviceServices.enabled .Values.core.deviceIngress.enabled) (not .Values.core.deviceURL) -}}
{{- fail "core.deviceURL: devices do not know of the nodes' services without it" -}}
{{- end -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository: no image is published; build it, push it to a registry of yours and name it here (docs/kubernetes.md)" -}}
{{- end -}}
{{- end -}}
