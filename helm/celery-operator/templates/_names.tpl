{{/* One template for each name, so that nothing is spelt twice. Every name holds the release's. */}}

{{- define "celery-operator.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* For objects outside namespaces: releases of one name may live in several. */}}
{{- define "celery-operator.clusterName" -}}
{{ printf "%s-%s" .Release.Namespace (include "celery-operator.fullname" .) }}
{{- end }}

{{- define "celery-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "celery-operator.fullname" .) }}
{{- else }}{{ required "serviceAccount.name has to be set when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "celery-operator.metricsName" -}}
{{ include "celery-operator.fullname" . }}-metrics
{{- end }}

{{- define "celery-operator.adoptionName" -}}
{{ include "celery-operator.fullname" . }}-adopt-crds
{{- end }}

{{- define "celery-operator.testName" -}}
{{ include "celery-operator.fullname" . }}-test
{{- end }}

{{- define "celery-operator.redisName" -}}
{{ printf "%s-redis" (.Release.Name | trunc 53 | trimSuffix "-") }}
{{- end }}

{{- define "celery-operator.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "celery-operator.workerImage" -}}
{{ .Values.workerImage.repository }}:{{ .Values.workerImage.tag | default .Chart.AppVersion }}
{{- end }}
