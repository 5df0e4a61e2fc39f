package v1alpha1

// Backup is where and how the cluster is backed up: etcd, certificates and
// configuration, in one encrypted archive.
type Backup struct {
	// Where archives are kept: the path of a folder, sftp://USER@HOST/PATH or
	// s3://BUCKET/PREFIX. A folder is on the machine that makes the backup: the
	// operator's for kocli backup create, the control plane's for a scheduled one.
	Target string `json:"target,omitempty"`
	// Public keys of age (age1...) that archives are encrypted for. Whoever has the
	// private key of one of them can restore.
	Recipients []string `json:"recipients,omitempty"`
	// Do not encrypt archives, which hold all secrets of the cluster. Default: false.
	Plain bool `json:"plain,omitempty"`
	// When control planes make backups by themselves, in systemd's OnCalendar form, as
	// in "*-*-* 02:30:00" or "daily". kocli backup schedule installs it.
	Schedule string `json:"schedule,omitempty"`
	// How long archives are kept. Default: for ever.
	Retention BackupRetention `json:"retention,omitempty,omitzero"`
	// How kocli logs in where target is sftp://.
	SFTP BackupSFTP `json:"sftp,omitempty,omitzero"`
	// The server, where target is s3://.
	S3 BackupS3 `json:"s3,omitempty,omitzero"`
}

// BackupRetention is how long archives are kept. The newest always stays.
type BackupRetention struct {
	// How many archives stay at most. Default: no limit.
	Keep int `json:"keep,omitempty" jsonschema:"minimum=1"`
	// How old an archive may be, as in "720h". Default: no limit.
	MaxAge Duration `json:"maxAge,omitempty" jsonschema:"pattern=^([0-9]+(h|m|s|ms))+$"`
}

// BackupSFTP is how kocli logs in to a server for backups. Its host key is checked.
type BackupSFTP struct {
	// Private key on the operator's machine. "~/" is the home directory.
	KeyFile string `json:"keyFile,omitempty"`
	// Passphrase of the private key, by reference: env:NAME, file:PATH or prompt.
	Passphrase SecretRef `json:"passphrase,omitempty" jsonschema:"pattern=^(env:.+|file:.+|prompt)$"`
	// Password of the user, by reference: env:NAME, file:PATH or prompt.
	Password SecretRef `json:"password,omitempty" jsonschema:"pattern=^(env:.+|file:.+|prompt)$"`
}

// BackupS3 is a server that speaks S3.
type BackupS3 struct {
	// URL of the server, https://HOST[:PORT].
	Endpoint string `json:"endpoint,omitempty"`
	// Region, where the server wants one. Default: us-east-1.
	Region string `json:"region,omitempty"`
	// Access key, by reference: env:NAME, file:PATH or prompt.
	AccessKey SecretRef `json:"accessKey,omitempty" jsonschema:"pattern=^(env:.+|file:.+|prompt)$"`
	// Secret key, by reference: env:NAME, file:PATH or prompt.
	SecretKey SecretRef `json:"secretKey,omitempty" jsonschema:"pattern=^(env:.+|file:.+|prompt)$"`
	// CA of the server's certificate in PEM, on the operator's machine. Default: those
	// that the system trusts.
	CAFile string `json:"caFile,omitempty"`
}
