{{/* An image by tag, and by digest where there is one. */}}
{{- define "reelign.image" -}}
{{ .repository }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}

{{/* Of every pod: the restricted Pod Security Standard, as the user of our images. A volume becomes its group's with "group". */}}
{{- define "reelign.podSecurity" -}}
automountServiceAccountToken: false
priorityClassName: reelign-service
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  {{- if .group }}
  fsGroup: 10001
  {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Of every container. */}}
{{- define "reelign.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Pull secrets, of service accounts and of pods that have no account of ours. */}}
{{- define "reelign.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "reelign.s3Endpoint" -}}
{{ .Values.oneMachine.enabled | ternary "http://s3:8333" .Values.s3.endpoint }}
{{- end }}

{{- define "reelign.s3Port" -}}
{{- $url := urlParse (include "reelign.s3Endpoint" .) -}}
{{ regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (eq $url.scheme "http" | ternary "80" "443") }}
{{- end }}

{{/* Triton has the endpoint in the address of its models, with a port, unless it is Amazon's. */}}
{{- define "reelign.modelRepository" -}}
{{- $url := urlParse (include "reelign.s3Endpoint" .) -}}
s3://
{{- if not (regexMatch "\\.amazonaws\\.com(\\.cn)?$" $url.hostname) -}}
{{ $url.scheme }}://{{ $url.hostname }}:{{ include "reelign.s3Port" . }}/
{{- end -}}
{{ .Values.s3.bucket }}/serving/model_repository
{{- end }}

{{/* The first key of an egress rule to a list of CIDRs; without any, all addresses. */}}
{{- define "reelign.toCidrs" -}}
{{- with . }}
to:
  {{- range . }}
  - ipBlock: {cidr: {{ . }}}
  {{- end }}
{{- end }}
{{- end }}

{{/* Egress rule to S3: the pod of this chart, or an address outside. */}}
{{- define "reelign.toS3" -}}
- ports: [{port: {{ include "reelign.s3Port" . }}, protocol: TCP}]
{{- if .Values.oneMachine.enabled }}
  to: [{podSelector: {matchLabels: {app.kubernetes.io/name: s3}}}]
{{- else }}
  {{- include "reelign.toCidrs" .Values.network.s3.cidrs | nindent 2 }}
{{- end }}
{{- end }}

{{/* Egress rule of MLflow to its database. */}}
{{- define "reelign.toPostgres" -}}
- ports: [{port: {{ .Values.oneMachine.enabled | ternary 5432 .Values.network.postgres.port }}, protocol: TCP}]
{{- if .Values.oneMachine.enabled }}
  to: [{podSelector: {matchLabels: {app.kubernetes.io/name: postgres}}}]
{{- else }}
  {{- include "reelign.toCidrs" .Values.network.postgres.cidrs | nindent 2 }}
{{- end }}
{{- end }}

{{/* Spec of a claim: "size", "storageClass" ("" for the cluster's default) and "accessMode". */}}
{{- define "reelign.claim" -}}
accessModes: [{{ .accessMode }}]
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources: {requests: {storage: {{ .size }}}}
{{- end }}
