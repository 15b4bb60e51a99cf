//go:build !unix

package autoscale

import (
	"context"
	"errors"
)

// Process is a provider that runs nodes as processes of this machine. It exists on Unix alone.
type Process struct{}

var errNoProcesses = errors.New("autoscale: nodes can be run as processes on Unix alone")

// NewProcess fails.
func NewProcess(ProcessOptions) (*Process, error) { return nil, errNoProcesses }

// Name implements Provider.
func (p *Process) Name() string { return "process" }

// Inventory implements Provider.
func (p *Process) Inventory(context.Context) (Inventory, error) { return Inventory{}, errNoProcesses }

// Scale implements Provider.
func (p *Process) Scale(context.Context, Order) error { return errNoProcesses }

// Stop has nothing to stop.
func (p *Process) Stop(context.Context) error { return nil }
