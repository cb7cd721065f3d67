// How the settings of a user are read. What has one meaning only is cleaned:
// spaces, capitals, and entries that are empty or there twice. Everything else is
// a problem, which names the variable and the value.

@export()
@description('The name of a region in the form that Azure compares.')
func regionOf(name string) string => toLower(replace(replace(name, ' ', ''), '-', ''))

@export()
@description('The regions of a list, comma separated.')
func regionsOf(list string) array => union([], map(entries(list), entry => regionOf(entry)))

@export()
@description('The names of a list, comma separated. Of two that differ in capitals only, the first.')
func namesOf(list string) array =>
  reduce(
    entries(list),
    [],
    (names, name) => contains(map(names, n => toLower(n)), toLower(name)) ? names : concat(names, [name])
  )

@export()
@description('The pairs NAME=secret of a list, comma separated, each an array of two. Capitals of a secret are lowered: Container Apps takes no others, and the vault does not tell them apart.')
func pairsOf(list string) array =>
  map(
    union(
      [],
      map(
        entries(list),
        entry => '${trim(split(entry, '=')[0])}=${toLower(trim(join(skip(split(entry, '='), 1), '=')))}'
      )
    ),
    pair => split(pair, '=')
  )

@export()
@description('The tags of a list of pairs NAME=value, comma separated.')
func tagsOf(list string) object => toObject(tagPairs(list), pair => pair[0], pair => pair[1])

@export()
func tagProblems(variable string, list string) array =>
  concat(
    map(
      filter(tagPairs(list), pair => empty(pair[0]) || empty(pair[1])),
      pair => '${variable}: "${join(pair, '=')}" is not a pair NAME=value of a tag.'
    ),
    map(
      filter(tagPairs(list), pair => startsWith(toLower(pair[0]), 'azd-')),
      pair => '${variable}: "${pair[0]}" is a tag that azd finds its resources by.'
    ),
    map(
      filter(
        union([], map(tagPairs(list), pair => toLower(pair[0]))),
        name => length(filter(tagPairs(list), pair => toLower(pair[0]) == name)) > 1
      ),
      name => '${variable}: "${name}" has more than one value.'
    )
  )

@export()
func networkProblems(zones string, zoneRedundant bool, variable string, subnetId string) array =>
  concat(
    zoneRedundant && empty(subnetId) ? ['${zones}: true needs ${variable}, a subnet for the environment.'] : [],
    empty(subnetId) || isSubnet(subnetId, split(subnetId, '/'))
      ? []
      : [
          '${variable}: "${subnetId}" is not the resource id of a subnet, which is /subscriptions/ID/resourceGroups/GROUP/providers/Microsoft.Network/virtualNetworks/NAME/subnets/NAME.'
        ]
  )

@export()
func locationProblems(variable string, location string) array =>
  isRegion(location) ? [] : ['${variable}: "${location}" is not the name of a region, such as westeurope.']

@export()
func regionProblems(variable string, list string) array =>
  concat(
    !empty(trim(list)) && empty(regionsOf(list)) ? ['${variable}: "${list}" names no region.'] : [],
    map(
      filter(entries(list), entry => !isRegion(entry)),
      entry => '${variable}: "${entry}" is not the name of a region, such as westeurope.'
    )
  )

@export()
func registryProblems(variable string, list string) array =>
  concat(
    map(
      filter(entries(list), id => !isRegistry(id, split(id, '/'))),
      id =>
        '${variable}: "${id}" is not the resource id of a registry, which is /subscriptions/ID/resourceGroups/GROUP/providers/Microsoft.ContainerRegistry/registries/NAME.'
    ),
    map(
      filter(
        union([], map(entries(list), id => toLower(last(split(id, '/'))))),
        name => length(filter(entries(list), id => toLower(last(split(id, '/'))) == name)) > 1
      ),
      name => '${variable}: two registries are called ${name}.'
    )
  )

@export()
func subscriptionProblems(variable string, list string) array =>
  map(
    filter(
      entries(list),
      name => length(name) > 50 || isStrange(toLower(name), 'abcdefghijklmnopqrstuvwxyz0123456789-_.')
    ),
    name => '${variable}: "${name}" is not the name of a subscription: at most 50 letters, digits, - _ and . only.'
  )

@export()
func throughputProblems(parameter string, throughput int) array =>
  throughput >= 0 && throughput % 1000 == 0 ? [] : ['${parameter}: ${throughput} is neither 0 nor a multiple of 1000.']

@export()
func pairProblems(variable string, list string) array =>
  concat(
    map(
      filter(pairsOf(list), pair => length(pair) != 2 || !isPair(pair[0], last(pair))),
      pair =>
        '${variable}: "${join(pair, '=')}" is not a pair NAME=secret of a variable and the name of a secret in the vault.'
    ),
    map(
      filter(pairsOf(list), pair => contains(ownVariables(), pair[0])),
      pair => '${variable}: "${pair[0]}" is a variable that the deployment sets itself.'
    ),
    map(
      filter(
        union([], map(pairsOf(list), pair => pair[0])),
        name => length(filter(pairsOf(list), pair => pair[0] == name)) > 1
      ),
      name => '${variable}: "${name}" has more than one secret.'
    )
  )

// What allregions.bicep sets.
func ownVariables() array => [
  'AZURE_CLIENT_ID'
  'AZURE_CLOUD'
  'PUBLIC_URL'
  'REGISTRY_RESOURCE_ID'
  'WEBHOOK_REGIONS'
  'OPTIONAL_REGIONS'
  'WEBHOOK_TIMEOUT'
  'WEBHOOK_ACTIONS'
  'WEBHOOK_REGISTRATION'
  'WEBHOOK_OWNER'
  'WEBHOOK_KEYS'
  'READ_KEYS'
  'SHUTDOWN_DELAY'
  'NOTIFY_TARGETS'
  'GOMEMLIMIT'
  'OTEL_EXPORTER_OTLP_ENDPOINT'
]

func entries(list string) array => filter(map(split(list, ','), entry => trim(entry)), entry => !empty(entry))

func tagPairs(list string) array =>
  map(union([], entries(list)), entry => [trim(split(entry, '=')[0]), trim(join(skip(split(entry, '='), 1), '='))])

func isStrange(text string, allowed string) bool =>
  !empty(filter(range(0, length(text)), i => !contains(allowed, substring(text, i, 1))))

func isRegion(name string) bool =>
  !empty(regionOf(name)) && !isStrange(regionOf(name), 'abcdefghijklmnopqrstuvwxyz0123456789')

func isPair(name string, secret string) bool =>
  !empty(name) && !empty(secret) && !isStrange(toLower(name), 'abcdefghijklmnopqrstuvwxyz0123456789_') && !isStrange(
    secret,
    'abcdefghijklmnopqrstuvwxyz0123456789-'
  )

func isRegistry(id string, parts array) bool =>
  length(parts) == 9 && !empty(parts[?2]) && !empty(parts[?4]) && !empty(parts[?8]) && toLower(id) == toLower('/subscriptions/${parts[?2]}/resourceGroups/${parts[?4]}/providers/Microsoft.ContainerRegistry/registries/${parts[?8]}')

func isSubnet(id string, parts array) bool =>
  length(parts) == 11 && !empty(parts[?2]) && !empty(parts[?4]) && !empty(parts[?8]) && !empty(parts[?10]) && toLower(id) == toLower('/subscriptions/${parts[?2]}/resourceGroups/${parts[?4]}/providers/Microsoft.Network/virtualNetworks/${parts[?8]}/subnets/${parts[?10]}')
