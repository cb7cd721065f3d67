package sidecar

// Together lets the calls of r's store go together, as if it were SQLite.
func (r *Records) Together() { r.store.client.types.Store(r.store.name, oneFile) }
