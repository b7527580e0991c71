/** The documents of the public contract as they are written there. Alerts' subscription comes with alerts. */
export const KEY_ROW = /* GraphQL */ `
  fragment KeyRow on ApiKey {
    id
    keyId
    name
    type
    status
    category
    masked
    permissions
    createdAt
    expiresAt
    lastUsedAt
    personal
    archived
    createdBy {
      id
    }
    profile {
      id
      name
    }
    metadata
    quotas {
      window
      limit
      used
      remaining
      availableAt
    }
    limits {
      unit
      windowSeconds
      limit
      remaining
    }
  }
`;

export const CONTRACT = {
  Viewer: /* GraphQL */ `
    query Viewer {
      viewer {
        actorId
        role
        permissions
        organization {
          id
          name
          plan
        }
      }
    }
  `,
  CreateApiKey: /* GraphQL */ `
    mutation CreateApiKey($input: CreateApiKeyInput!) {
      createApiKey(input: $input) {
        __typename
        ... on CreateApiKeyPayload {
          secret
          position
          apiKey {
            ...KeyRow
          }
        }
        ... on UserError {
          code
          message
        }
      }
    }
    ${KEY_ROW}
  `,
  M1: /* GraphQL */ `
    mutation M1($input: UpdateApiKeyInput!) {
      updateApiKey(input: $input) {
        __typename
        ... on UpdateApiKeyPayload {
          position
          apiKey {
            ...KeyRow
          }
        }
        ... on UserError {
          code
          message
        }
      }
    }
    ${KEY_ROW}
  `,
  M2: /* GraphQL */ `
    mutation M2($input: DeactivateApiKeyInput!) {
      deactivateApiKey(input: $input) {
        __typename
        ... on DeactivateApiKeyPayload {
          position
          apiKey {
            ...KeyRow
          }
        }
        ... on UserError {
          code
          message
        }
      }
    }
    ${KEY_ROW}
  `,
  M3: /* GraphQL */ `
    mutation M3($input: ActivateApiKeyInput!) {
      activateApiKey(input: $input) {
        __typename
        ... on ActivateApiKeyPayload {
          position
          apiKey {
            ...KeyRow
          }
        }
        ... on UserError {
          code
          message
        }
      }
    }
    ${KEY_ROW}
  `,
  M4: /* GraphQL */ `
    mutation M4($input: RegenerateApiKeyInput!) {
      regenerateApiKey(input: $input) {
        __typename
        ... on RegenerateApiKeyPayload {
          position
          secret
          apiKey {
            ...KeyRow
          }
        }
        ... on UserError {
          code
          message
        }
      }
    }
    ${KEY_ROW}
  `,
  M5: /* GraphQL */ `
    mutation M5($input: DeleteApiKeyInput!) {
      deleteApiKey(input: $input) {
        __typename
        ... on DeleteApiKeyPayload {
          position
          deletedId
        }
        ... on UserError {
          code
          message
        }
      }
    }
  `,
  Verify: /* GraphQL */ `
    mutation Verify($input: VerifyApiKeyInput!) {
      verifyApiKey(input: $input) {
        valid
        code
        message
        keyId
        requestId
        position
      }
    }
  `,
  Record: /* GraphQL */ `
    mutation Record($input: RecordUsageInput!) {
      recordUsage(input: $input) {
        __typename
        ... on RecordUsagePayload {
          accepted
          position
        }
        ... on UserError {
          code
          message
        }
      }
    }
  `,
  Keys: /* GraphQL */ `
    query Keys($organization: ID!, $filter: ApiKeyFilter, $first: Int, $after: String) {
      node(id: $organization) {
        ... on Organization {
          apiKeys(filter: $filter, orderBy: { field: CREATED_AT, direction: DESC }, first: $first, after: $after) {
            totalCount
            pageInfo {
              hasNextPage
              endCursor
            }
            edges {
              cursor
              node {
                ...KeyRow
              }
            }
          }
        }
      }
    }
    ${KEY_ROW}
  `,
  Key: /* GraphQL */ `
    query Key($id: ID!, $from: DateTime!, $to: DateTime!) {
      node(id: $id) {
        ... on ApiKey {
          ...KeyRow
          usage(from: $from, to: $to, granularity: HOUR) {
            totals {
              requests
              succeeded
              failed
              refused
              successRate
              errorRate
              cost
              tokensIn
              tokensOut
              models
              refusals {
                code
                count
              }
            }
            series {
              at
              requests
              failed
              refused
              cost
              tokensIn
              tokensOut
            }
          }
          requestLog(first: 50) {
            edges {
              node {
                requestId
                at
                endpoint
                status
                durationMs
                ip
                credits
                code
                position
              }
            }
            pageInfo {
              endCursor
              hasNextPage
            }
          }
          asOf(position: "42") {
            name
            status
            permissions
          }
          events(first: 20) {
            edges {
              node {
                position
                type
                at
                actorId
                data
              }
            }
          }
        }
      }
    }
    ${KEY_ROW}
  `,
  Log: /* GraphQL */ `
    query Log($organization: ID!, $after: Position) {
      node(id: $organization) {
        ... on Organization {
          ledgerEvents(after: $after, filter: { types: [KEY_CREATED] }, first: 100) {
            edges {
              node {
                position
                id
                type
                subjectId
                at
                actorId
                data
              }
            }
            pageInfo {
              endCursor
              hasNextPage
            }
          }
        }
      }
    }
  `,
  LastUsed: /* GraphQL */ `
    subscription LastUsed($organization: ID!, $keyIds: [ID!]) {
      keyUsed(organizationId: $organization, keyIds: $keyIds) {
        position
        apiKey {
          id
          lastUsedAt
        }
        requests
        lastUsedAt
      }
    }
  `,
  Changed: /* GraphQL */ `
    subscription Changed($organization: ID!, $after: Position) {
      apiKeyChanged(organizationId: $organization, after: $after) {
        position
        type
        apiKey {
          ...KeyRow
        }
      }
    }
    ${KEY_ROW}
  `,
  Tail: /* GraphQL */ `
    subscription Tail($organization: ID!, $after: Position) {
      ledgerEvents(organizationId: $organization, after: $after) {
        position
        id
        type
        subjectId
        at
        actorId
        data
      }
    }
  `,
} as const;
