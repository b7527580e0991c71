import WebSocket from 'ws';

import { eventually, type TestGraphql } from './graphql-server.ts';

type Message = { readonly type: string; readonly id?: string; readonly payload?: unknown };

/** A bare socket after `connection_init`; its messages and its close code. */
export async function openSocket(server: TestGraphql, token: string | null) {
  const socket = new WebSocket(server.url.replace('http:', 'ws:'), 'graphql-transport-ws');
  const messages: Message[] = [];
  const state = { socket, messages, closeCode: 0 };
  socket.on('message', (data: Buffer) => messages.push(JSON.parse(data.toString()) as Message));
  socket.on('close', (code) => void (state.closeCode = code));
  await new Promise((resolve) => socket.once('open', resolve));
  socket.send(JSON.stringify({ type: 'connection_init', payload: token === null ? {} : { authorization: `Bearer ${token}` } }));
  if (token !== null) await eventually('the server acknowledges', () => messages.some((message) => message.type === 'connection_ack'));
  return state;
}
