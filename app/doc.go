// Allregions joins the webhooks that a geo-replicated Azure Container Registry
// fires in each of its regions into one notification: "this push is now in all
// regions", or "these regions are missing".
//
//	ACR region ──POST──▶ webhook ──invoke──▶ actor Notification/<id> ──state──▶ statestore
//	                     PORT                APP_PORT, loopback only  ──doc────▶ images
//	                                             ▲ reminder           ──event──▶ topic
//
// # A tour
//
// Read in this order, each package before those that use it:
//
//   - [allregions/app/replication] is what the product knows: which events make
//     a notification, when it is replicated, timedOut or recovered. Pure
//     functions, no I/O, no clock.
//   - [allregions/app/notification] is the actor that owns one notification. It
//     wraps a decision in the reads and writes that make it last, in an order
//     that a crash cannot hurt. Its wire and stored forms are in wire.go, the
//     CloudEvent in cloudevent.go. Its Client is how everybody else reaches it.
//     [allregions/app/reminder] names the reminders that wake it.
//   - [allregions/app/webhook] is the public HTTP side: keys, limits, ACR's
//     payloads, statuses, waiting. problem.go has the table of errors.
//   - [allregions/app/sidecar] is Dapr: the one package that imports its SDK. It
//     implements the interfaces that notification declares, and hosts the actor.
//   - [allregions/app/registry] knows the expected regions: from a list, or from
//     Azure Resource Manager. There it also keeps the registry's webhooks as they
//     must be, and reads what they have fired.
//   - [allregions/app/target] knows who is told of outcomes beside the topic, and
//     how each wants to hear it; [allregions/app/delivery] is the actor that
//     tries until it works or is given up; [allregions/app/outbox] joins them to
//     the topic.
//   - [allregions/app/telemetry] is what operators look at: metrics, and where
//     traces go. Nobody but main imports it; the others have hooks.
//   - main (this package) reads the settings (config.go: the operator's manual)
//     and wires the rest. It alone knows everybody.
//
// Beside the service, [allregions/app/local] runs all of it on one machine, with
// the real Dapr: for people, and for the tests. app/local/runtime is a module of
// its own that pins and builds Dapr. [allregions/app/local/chaos] is three
// replicas while everything around them fails.
//
// # A webhook's way
//
//  1. webhook.Handler checks the key, parses the payload, and calls
//     notification.Client.Add.
//     If the actor cannot be reached in time, notification.Intake puts the event
//     on a topic from which it comes back, and the webhook is answered.
//  2. The sidecar finds the actor's host, which may be another replica, and calls
//     sidecar.Host there, one turn at a time per notification.
//  3. notification.Actor loads the state, asks replication.Add for the decision,
//     and saves it. From here on the event is safe, and the webhook is answered.
//  4. If that decided an outcome, the same turn publishes it, while its caller has
//     its answer already (sidecar.After). If it cannot, or
//     if the process dies before it does, the actor's reminder does.
package main
