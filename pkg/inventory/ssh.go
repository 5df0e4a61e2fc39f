package inventory

import "github.com/kocli/kocli/pkg/api/v1alpha1"

// The login that is used where nothing is said.
const (
	DefaultSSHUser = "root"
	DefaultSSHPort = 22
)

// SSH is how to log in to a node, with nothing left to inherit.
type SSH struct {
	User         string
	Port         int
	KeyFile      string             // on the operator's machine; "~/" is not expanded yet
	Passphrase   v1alpha1.SecretRef // of KeyFile
	Password     v1alpha1.SecretRef
	SudoPassword v1alpha1.SecretRef // Password, where nothing else is said
	Agent        bool
	Bastion      *Bastion
}

// Bastion is the machine through which a node is reached.
type Bastion struct {
	Address    string
	Port       int
	User       string
	KeyFile    string
	Passphrase v1alpha1.SecretRef
	Password   v1alpha1.SecretRef
	Agent      bool
}

// newSSH lays the host's login over the cluster's. A host that changes how it
// authenticates does not inherit the other ways: a key of its own drops the
// cluster's passphrase, and a user of its own drops the cluster's passwords.
func newSSH(base v1alpha1.SSH, over *v1alpha1.SSH) SSH {
	s := base
	if over != nil {
		if over.KeyFile != "" {
			s.KeyFile, s.Passphrase = over.KeyFile, ""
		}
		if over.User != "" && over.User != s.User {
			s.Password, s.SudoPassword = "", ""
		}
		if over.Password != "" {
			s.SudoPassword = ""
		}
		set(&s.User, over.User)
		set(&s.Port, over.Port)
		set(&s.Passphrase, over.Passphrase)
		set(&s.Password, over.Password)
		set(&s.SudoPassword, over.SudoPassword)
		set(&s.Agent, over.Agent)
		set(&s.Bastion, over.Bastion)
	}
	out := SSH{
		User: orDefault(s.User, DefaultSSHUser), Port: orDefault(s.Port, DefaultSSHPort),
		KeyFile: s.KeyFile, Passphrase: s.Passphrase,
		Password: s.Password, SudoPassword: orDefault(s.SudoPassword, s.Password),
		Agent: agent(s.Agent, s.KeyFile, s.Password),
	}
	if b := s.Bastion; b != nil {
		out.Bastion = &Bastion{
			Address: b.Address,
			Port:    orDefault(b.Port, DefaultSSHPort), User: orDefault(b.User, DefaultSSHUser),
			KeyFile: b.KeyFile, Passphrase: b.Passphrase, Password: b.Password,
			Agent: agent(b.Agent, b.KeyFile, b.Password),
		}
	}
	return out
}

// agent decides whether the ssh-agent is used: as said, or when there is no
// other way in.
func agent(said *bool, keyFile string, password v1alpha1.SecretRef) bool {
	if said != nil {
		return *said
	}
	return keyFile == "" && password == ""
}

func set[T comparable](to *T, v T) {
	var zero T
	if v != zero {
		*to = v
	}
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
