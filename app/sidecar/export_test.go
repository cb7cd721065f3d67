package sidecar

// Together lets the calls of d's store go together, as if it were SQLite.
func (d *Documents) Together() { d.kind.Store(kindOneFile) }
