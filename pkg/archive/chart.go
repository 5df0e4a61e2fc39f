package archive

import (
	"encoding/json"
	"strings"
)

// Media types of Helm charts in registries, as Helm writes and reads them.
const (
	TypeChartConfig  = "application/vnd.cncf.helm.config.v1+json"
	TypeChartContent = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// ArchAll is the architecture of items that fit all of them: charts.
const ArchAll = "all"

// ChartArtifact returns the manifest that makes a chart an OCI artifact, as
// `helm push` does, without the time of it: config is Chart.yaml as JSON, and
// content describes the chart's tarball.
func ChartArtifact(name, version string, config []byte, content Descriptor) ([]byte, error) {
	return json.Marshal(ociManifest{
		SchemaVersion: 2, MediaType: mediaTypeOCIManifest,
		Config: ociDescriptor{MediaType: TypeChartConfig, Digest: digestOf(config), Size: int64(len(config))},
		Layers: []ociDescriptor{{MediaType: TypeChartContent, Digest: content.Digest, Size: content.Size}},
		Annotations: map[string]string{
			annotationTitle: name, "org.opencontainers.image.version": version,
		},
	})
}

// ChartTag is the tag that a chart's version has in a registry: Helm writes "_"
// for the "+" that a tag cannot have.
func ChartTag(version string) string { return strings.ReplaceAll(version, "+", "_") }
