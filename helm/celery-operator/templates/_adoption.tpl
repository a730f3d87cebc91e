{{/* Metadata of a part of the adoption; takes a dict of root, name and weight. */}}
{{- define "celery-operator.adoptionMetadata" -}}
name: {{ .name }}
labels:
  {{- include "celery-operator.releaseLabels" .root | nindent 2 }}
annotations:
  helm.sh/hook: pre-install,pre-upgrade
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
