{{/*
Helm refuses to touch an object that carries another release's name. A CRD that was kept when its release was uninstalled
carries one. Such a CRD is left out of the manifest and handed to the job in adoption/, which brings it up to date and
writes this release's name on it before anything else happens; from then on it is an object like any other.
*/}}

{{/* The paths, as YAML, of those CRDs that exist and are not this release's. Empty where Helm cannot look (template). */}}
{{- define "celery-operator.foreignCrds" -}}
{{- $found := list }}
{{- if .Values.crds.install }}
{{- range $path, $_ := .Files.Glob "files/crds/*.yaml" }}
{{- $crd := $.Files.Get $path | fromYaml }}
{{- $live := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" $crd.metadata.name }}
{{- if $live }}
{{- $annotations := $live.metadata.annotations | default dict }}
{{- $name := get $annotations "meta.helm.sh/release-name" }}
{{- $namespace := get $annotations "meta.helm.sh/release-namespace" }}
{{- if not (and (eq $name $.Release.Name) (eq $namespace $.Release.Namespace)) }}
{{- if and $name (include "celery-operator.releaseExists" (dict "name" $name "namespace" $namespace)) }}
{{- fail (printf "\n\nThe CRD %s belongs to the release %s in the namespace %s. Only one release can look after the CRDs: install this one with --set crds.install=false." $crd.metadata.name $name $namespace) }}
{{- end }}
{{- $found = append $found $path }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml $found }}
{{- end }}

{{/* Whether Helm still keeps a record of a release: true or nothing. */}}
{{- define "celery-operator.releaseExists" -}}
{{- $exists := false }}
{{- range (lookup "v1" "Secret" .namespace "").items }}
{{- $labels := .metadata.labels | default dict }}
{{- if and (eq (get $labels "owner") "helm") (eq (get $labels "name") $.name) (ne (get $labels "status") "uninstalled") }}
{{- $exists = true }}
{{- end }}
{{- end }}
{{- if $exists }}true{{ end }}
{{- end }}

{{/* A CRD as this release installs it; takes a dict of root and path. */}}
{{- define "celery-operator.crd" -}}
{{- $crd := .root.Files.Get .path | fromYaml }}
{{- $_ := set $crd.metadata "labels" (include "celery-operator.releaseLabels" .root | fromYaml) }}
{{- if .root.Values.crds.keep }}
{{- $_ := set $crd.metadata "annotations" (dict "helm.sh/resource-policy" "keep") }}
{{- end }}
{{- toYaml $crd }}
{{- end }}
