package v1alpha1

// Registry is where pods get images from that are in no bundle.
type Registry struct {
	// A registry that kocli runs on hosts of the cluster, as a service of systemd.
	Builtin *BuiltinRegistry `json:"builtin,omitempty"`
	// Registries that are there already, such as a Harbor.
	External []ExternalRegistry `json:"external,omitempty"`
}

// BuiltinRegistry is CNCF distribution on hosts of the cluster, with TLS and a
// password.
type BuiltinRegistry struct {
	// Names of the hosts that it runs on. Each keeps the images that are pushed to
	// it; nodes ask them in this order.
	Hosts []string `json:"hosts" jsonschema:"minItems=1"`
	// DNS name that images carry, as in registry.example.com:5000/app:1. Nodes find
	// the hosts without DNS. Default: registry.kocli.internal.
	Name string `json:"name,omitempty"`
	// Port on the hosts. Default: 5000.
	Port int `json:"port,omitempty" jsonschema:"minimum=1,maximum=65535"`
	// Folder of the images on the hosts; it stays after a reset. Default:
	// /var/lib/kocli-registry.
	DataDir string `json:"dataDir,omitempty"`
	// Certificate in PEM, with those between it and its CA, on the operator's machine.
	// It has to cover the name. Default: kocli signs one with a CA of its own.
	CertFile string `json:"certFile,omitempty"`
	// Private key of the certificate.
	KeyFile string `json:"keyFile,omitempty"`
	// CA of the certificate, in PEM.
	CAFile string `json:"caFile,omitempty"`
	// User that pushes and pulls. Default: kocli.
	Username string `json:"username,omitempty"`
	// Password of the user, by reference: env:NAME, file:PATH or prompt. Default:
	// kocli makes one; kocli registry login-info says where it is.
	Password SecretRef `json:"password,omitempty" jsonschema:"pattern=^(env:.+|file:.+|prompt)$"`
}

// ExternalRegistry is a registry that pods may pull from, without an imagePullSecret.
type ExternalRegistry struct {
	// The registry as images name it: HOST or HOST:PORT.
	Name string `json:"name"`
	// CA of its certificate in PEM, on the operator's machine. Default: those that
	// the hosts trust.
	CAFile string `json:"caFile,omitempty"`
	// User that nodes log in as. Default: they do not.
	Username string `json:"username,omitempty"`
	// Password of the user, by reference: env:NAME, file:PATH or prompt.
	Password SecretRef `json:"password,omitempty" jsonschema:"pattern=^(env:.+|file:.+|prompt)$"`
}
