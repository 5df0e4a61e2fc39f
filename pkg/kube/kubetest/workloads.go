package kubetest

import "maps"

// RunWorkloads has the cluster do what controllers do with Deployments, with pods that
// run once, and with claims, at once: Deployments become ready unless stuck says that
// one does not, pods that are not started anew end well, claims are bound and their
// volumes go with them.
func (c *Cluster) RunWorkloads(stuck func(namespace, name string) bool) {
	before := c.React
	c.React = func(resource, namespace, name string, o Object) {
		before(resource, namespace, name, o)
		switch resource {
		case "deployments":
			c.deployment(namespace, name, o, stuck != nil && stuck(namespace, name))
		case "pods":
			c.oncePod(namespace, name, o)
		case "persistentvolumeclaims":
			c.claim(namespace, name, o)
		}
	}
}

// deployment makes the ReplicaSet of a Deployment, and its status.
func (c *Cluster) deployment(namespace, name string, o Object, stuck bool) {
	set := name + "-1"
	if o == nil {
		c.Drop("replicasets", namespace, set)
		return
	}
	spec, _ := o["spec"].(Object)
	template, _ := spec["template"].(Object)
	want, ok := spec["replicas"].(float64)
	if !ok {
		want = 1
	}
	ready := want
	if stuck {
		ready = 0
	}
	c.Drop("replicasets", namespace, set) // a template of its own is a ReplicaSet of its own
	c.Put("replicasets", namespace, set, Object{
		"metadata": Object{"labels": metadata(clone(template))["labels"], "ownerReferences": []any{Object{
			"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": metadata(o)["uid"], "controller": true,
		}}},
		"spec":   Object{"replicas": want, "selector": spec["selector"], "template": template},
		"status": Object{"replicas": want, "readyReplicas": ready, "availableReplicas": ready, "observedGeneration": 1},
	})
	o = clone(o)
	o["status"] = Object{
		"observedGeneration": metadata(o)["generation"], "replicas": want, "updatedReplicas": want, "readyReplicas": ready, "availableReplicas": ready,
	}
	c.Put("deployments", namespace, name, o)
}

// oncePod ends a pod that is not started anew.
func (c *Cluster) oncePod(namespace, name string, o Object) {
	if spec, _ := o["spec"].(Object); o != nil && spec["restartPolicy"] == "Never" && o["status"] == nil {
		o = clone(o)
		o["status"] = Object{"phase": "Succeeded"}
		c.Put("pods", namespace, name, o)
	}
}

// claim binds a claim to a volume of its own.
func (c *Cluster) claim(namespace, name string, o Object) {
	volume := "pvc-" + namespace + "-" + name
	if o == nil {
		c.Drop("persistentvolumes", "", volume)
		return
	}
	spec, _ := o["spec"].(Object)
	if spec["volumeName"] != nil {
		return
	}
	spec = maps.Clone(spec)
	spec["volumeName"] = volume
	c.Put("persistentvolumes", "", volume, Object{"spec": Object{
		"storageClassName": spec["storageClassName"], "claimRef": Object{"namespace": namespace, "name": name},
	}})
	o = clone(o)
	o["spec"], o["status"] = spec, Object{"phase": "Bound"}
	c.Put("persistentvolumeclaims", namespace, name, o)
}
