// What the tests use of it, so that they are checked where it is not installed, too.
declare module 'standardwebhooks' {
  export class Webhook {
    constructor(secret: string);
    verify(payload: string, headers: Readonly<Record<string, string>>): unknown;
  }
}
