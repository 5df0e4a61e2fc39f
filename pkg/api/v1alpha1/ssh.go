package v1alpha1

// SSH is how kocli logs in to a host. Host keys are always checked.
type SSH struct {
	// User to log in as. Default: root.
	User string `json:"user,omitempty"`
	// Port of the SSH server. Default: 22.
	Port int `json:"port,omitempty" jsonschema:"minimum=1,maximum=65535"`
	// Private key on the operator's machine. "~/" is the home directory.
	KeyFile string `json:"keyFile,omitempty"`
	// Passphrase of the private key, by reference: env:NAME, file:PATH or prompt.
	Passphrase SecretRef `json:"passphrase,omitempty" jsonschema:"pattern=^(env:.+|file:.+|prompt)$"`
	// Password of the user, by reference: env:NAME, file:PATH or prompt. Used
	// for password and keyboard-interactive login.
	Password SecretRef `json:"password,omitempty" jsonschema:"pattern=^(env:.+|file:.+|prompt)$"`
	// Password that sudo asks for, by reference: env:NAME, file:PATH or prompt.
	// Default: password. Not needed for root or where sudo asks for none.
	SudoPassword SecretRef `json:"sudoPassword,omitempty" jsonschema:"pattern=^(env:.+|file:.+|prompt)$"`
	// Use the keys of the running ssh-agent. Default: true when neither keyFile
	// nor password is given.
	Agent *bool `json:"agent,omitempty"`
	// Machine through which the hosts are reached.
	Bastion *Bastion `json:"bastion,omitempty"`
}

// Bastion is a machine through which hosts are reached (ssh -J). Nothing is
// run on it. It inherits nothing from spec.ssh.
type Bastion struct {
	// IP address or DNS name.
	Address string `json:"address"`
	// Port of the SSH server. Default: 22.
	Port int `json:"port,omitempty" jsonschema:"minimum=1,maximum=65535"`
	// User to log in as. Default: root.
	User string `json:"user,omitempty"`
	// Private key on the operator's machine. "~/" is the home directory.
	KeyFile string `json:"keyFile,omitempty"`
	// Passphrase of the private key, by reference: env:NAME, file:PATH or prompt.
	Passphrase SecretRef `json:"passphrase,omitempty" jsonschema:"pattern=^(env:.+|file:.+|prompt)$"`
	// Password of the user, by reference: env:NAME, file:PATH or prompt.
	Password SecretRef `json:"password,omitempty" jsonschema:"pattern=^(env:.+|file:.+|prompt)$"`
	// Use the keys of the running ssh-agent. Default: true when neither keyFile
	// nor password is given.
	Agent *bool `json:"agent,omitempty"`
}
