package build

import "sync"

// meter adds up progress of several workers.
type meter struct {
	mu     sync.Mutex
	report func(Progress)
	stages map[Stage]*Progress
}

func newMeter(report func(Progress)) *meter {
	return &meter{report: report, stages: map[Stage]*Progress{}}
}

func (m *meter) stage(s Stage) *Progress {
	if m.stages[s] == nil {
		m.stages[s] = &Progress{Stage: s}
	}
	return m.stages[s]
}

// expect raises the total of a stage.
func (m *meter) expect(s Stage, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stage(s).Total += n
}

// add moves a stage on. What comes without having been expected raises the
// total.
func (m *meter) add(s Stage, item string, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.stage(s)
	p.Done += n
	p.Total = max(p.Total, p.Done)
	if m.report != nil {
		now := *p
		now.Item = item
		m.report(now)
	}
}

// done is how far a stage is.
func (m *meter) done(s Stage) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stage(s).Done
}
