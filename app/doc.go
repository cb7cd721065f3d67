// Allregions joins the webhooks that a geo-replicated Azure Container Registry
// fires in each of its regions into one notification: "this push is now in all
// regions", or "these regions are missing".
//
//	ACR region ──POST──▶ api ─▶ intake ──invoke──▶ actor Notification/<id> ──record─▶ images
//	                     PORT                      APP_PORT, loopback only ──event──▶ topic
//	                                                   ▲ reminder          ──index──▶ statestore
//
// # A tour
//
// Read in this order, each package before those that use it:
//
//   - [allregions/app/replication] has the rules: which events make a notification,
//     and when it is replicated, timedOut or recovered. Pure functions, no I/O, no
//     clock.
//   - [allregions/app/actor] has the ports that every actor uses: records with
//     versions, reminders and their names, the topic; and what a turn returns.
//   - [allregions/app/catalog] leads from an image to the newest notification about
//     it. It writes its index after the webhooks are answered.
//   - [allregions/app/notification] is the actor of a notification. It surrounds a
//     decision with reads and writes in an order that survives a crash. Its wire and
//     stored forms are in wire.go, the CloudEvent in cloudevent.go. Its Client sends
//     an event to the actor, and reads a status from the store.
//   - [allregions/app/intake] brings an event to its actor: directly, or by a queue if
//     the actor does not answer in time. It also makes dead letters.
//   - [allregions/app/api] is the public HTTP side: keys, limits, ACR's payloads,
//     statuses, waiting. problem.go has the table of errors.
//   - [allregions/app/sidecar] is Dapr: the one package that imports its SDK. It
//     implements the ports that actor declares, and hosts the actors.
//   - [allregions/app/registry] knows the expected regions: from a list, or from
//     Azure Resource Manager. With Azure it also keeps the registry's webhooks as they
//     must be, and reads which events they have fired.
//   - [allregions/app/delivery] takes outcomes from the topic to targets: its actor
//     tries until a target accepts one, or the schedule ends.
//     [allregions/app/target] knows who gets outcomes and in which form, and makes one
//     attempt.
//   - [allregions/app/telemetry] is metrics and traces. Only main imports it; the other
//     packages have hooks.
//   - main (this package) reads the settings (config.go), wires the packages together
//     (wire.go) and serves (serve.go). It alone imports all of them. deregister.go is
//     for the day when the service goes.
//
// Beside the service, [allregions/app/local] runs all of it on one machine, with
// the real Dapr: for people, and for the tests. app/local/runtime is a module of
// its own that pins and builds Dapr. [allregions/app/local/chaos] is three
// replicas while everything around them fails.
//
// # The way of a webhook
//
//  1. api.Handler checks the key, parses the payload, and calls intake.Intake.Add,
//     which calls the actor through notification.Client. If the actor does not answer
//     in time, the event goes to a topic, which delivers it later, and the webhook is
//     answered.
//  2. The sidecar finds the actor's host, which may be another replica, and calls
//     sidecar.Host there, one turn at a time per notification.
//  3. notification.Actor loads the record with its version, asks replication.Add
//     for the decision, and saves it in place of that version. Now the event is safe,
//     and the webhook is answered.
//  4. actor.Turn.After does the work that follows the answer: it writes the image's
//     index and publishes an outcome, if there is one. If that fails, or if the process
//     dies before, the actor's reminder does it.
package main
