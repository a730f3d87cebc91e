{{/* What the operator may do in the namespaces it serves: the same whether a ClusterRole or Roles say so. */}}
{{- define "celery-operator.rules" -}}
# What users ask for, and what became of it.
- apiGroups: [celery-operator.dev]
  resources: [celeryapps, celeryworkerpools, celeryworkflows]
  verbs: [get, list, watch]
- apiGroups: [celery-operator.dev]
  resources: [celeryapps/status, celeryworkerpools/status, celeryworkflows/status]
  verbs: [patch]
# A pool's workers. What is deleted with its owner, the garbage collector deletes.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, create, patch]
# Which workers there are, and which of them may go (the annotation pod-deletion-cost).
- apiGroups: [""]
  resources: [pods]
  verbs: [list, patch]
# Broker URLs are read by name; the token that protects a pool's workers is written.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create]
# The checkpoint of a run.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "celery-operator.leaseRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, create, update]
{{- end }}
