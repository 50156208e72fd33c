//! The public contract: JSON and protobuf types, error codes, OpenAPI, the client.
