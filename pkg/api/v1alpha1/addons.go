package v1alpha1

// Addon is something that runs in the cluster, from a Helm chart of the bundle.
// One that is not named here and is in the cluster is left alone.
type Addon struct {
	// Name, as `kocli addon list` shows it. Unique in the list.
	Name string `json:"name"`
	// Whether the cluster has it. false takes it out of the cluster again. Default:
	// true.
	Enabled *bool `json:"enabled,omitempty"`
	// Version of the chart. Default: the newest in the bundle.
	Version string `json:"version,omitempty"`
	// Namespace that it is installed into, and that is made for it. Default: as
	// `kocli addon info` shows it.
	Namespace string `json:"namespace,omitempty"`
	// Values of the chart, over those that kocli sets; `kocli addon values` shows what
	// comes of it.
	Values Object `json:"values,omitempty"`
}

// Storage is persistent storage with a storage class of its own.
type Storage struct {
	// Name of the storage class. Unique in the list.
	Name string `json:"name"`
	// What it is: local (folders on the nodes, by local-path-provisioner).
	Type StorageType `json:"type" jsonschema:"enum=local"`
	// Whether claims that name no class get this one. One of all can be it. Default:
	// true where it is the only one.
	Default *bool `json:"default,omitempty"`
	// What becomes of a volume whose claim is deleted: Delete or Retain. Default:
	// Delete.
	ReclaimPolicy string `json:"reclaimPolicy,omitempty" jsonschema:"enum=Delete,enum=Retain"`
	// Settings of type local.
	Local *LocalStorage `json:"local,omitempty"`
	// Version of the chart. Default: the newest in the bundle.
	Version string `json:"version,omitempty"`
	// Values of the chart, over those that kocli sets.
	Values Object `json:"values,omitempty"`
}

// StorageType is a kind of storage.
type StorageType string

// The types of storage.
const (
	StorageLocal StorageType = "local"
)

// LocalStorage keeps volumes in folders on the nodes. A pod with such a volume stays on
// its node, and the data is lost with it.
type LocalStorage struct {
	// Folder on every node, on the file system that is to hold the volumes. Default:
	// /var/lib/kocli-volumes.
	Path string `json:"path,omitempty"`
}
