/** It ships without types. */
declare module 'relay-compiler' {
  /** The path of the binary for this machine; null where there is none. */
  const binary: string | null;
  export default binary;
}
