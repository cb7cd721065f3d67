// Allregions joins the webhooks that a geo-replicated Azure Container Registry
// fires in each of its regions into one notification: "this push is now in all
// regions", or "these regions are missing".
//
//	ACR region ──POST──▶ webhook ──invoke──▶ actor Notification/<id> ──record─▶ images
//	                     PORT                APP_PORT, loopback only  ──event──▶ topic
//	                                             ▲ reminder           ──index──▶ statestore
//
// # A tour
//
// Read in this order, each package before those that use it:
//
//   - [allregions/app/replication] is what the product knows: which events make
//     a notification, when it is replicated, timedOut or recovered. Pure
//     functions, no I/O, no clock.
//   - [allregions/app/actor] is what every actor is given, as ports: records with
//     versions, reminders and their names, the topic; and what a turn comes to.
//   - [allregions/app/catalog] leads from an image to the newest notification about
//     it. The index is written behind the webhooks' answers.
//   - [allregions/app/notification] is the actor that owns one notification. It
//     wraps a decision in the reads and writes that make it last, in an order
//     that a crash cannot hurt. Its wire and stored forms are in wire.go, the
//     CloudEvent in cloudevent.go. Its Client is how everybody else reaches it: an
//     event goes to the actor, and a status is read from the store.
//   - [allregions/app/api] is the public HTTP side: keys, limits, ACR's
//     payloads, statuses, waiting. problem.go has the table of errors.
//   - [allregions/app/sidecar] is Dapr: the one package that imports its SDK. It
//     implements the ports that actor declares, and hosts the actors.
//   - [allregions/app/registry] knows the expected regions: from a list, or from
//     Azure Resource Manager. There it also keeps the registry's webhooks as they
//     must be, and reads what they have fired.
//   - [allregions/app/delivery] takes outcomes from the topic to targets: its actor
//     tries until a target accepts one, or the schedule ends.
//     [allregions/app/target] knows who gets outcomes and how, and makes one attempt.
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
//  1. api.Handler checks the key, parses the payload, and calls
//     notification.Client.Add.
//     If the actor cannot be reached in time, intake.Intake puts the event
//     on a topic from which it comes back, and the webhook is answered.
//  2. The sidecar finds the actor's host, which may be another replica, and calls
//     sidecar.Host there, one turn at a time per notification.
//  3. notification.Actor loads the record with its version, asks replication.Add
//     for the decision, and saves it in place of that version. From here on the
//     event is safe, and the webhook is answered.
//  4. What follows the answer is in actor.Turn: the image's index is written, and,
//     if that decided an outcome, it is published. If that cannot be done, or if
//     the process dies before, the actor's reminder does it.
package main
